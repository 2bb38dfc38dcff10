package jobspecs

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func rulePaths(at place, t reflect.Type, seen map[string]bool) {
	seen[at.rule] = true
	switch t.Kind() {
	case reflect.Pointer:
		rulePaths(at, t.Elem(), seen)
	case reflect.Struct:
		for _, f := range fieldsOf(t) {
			rulePaths(at.child(f.key), t.Field(f.index).Type, seen)
		}
	case reflect.Slice:
		rulePaths(at.item(0), t.Elem(), seen)
	case reflect.Map:
		rulePaths(at.entry("x"), t.Elem(), seen)
	}
}

const small = `apiVersion: penstock/v1
name: small
model: {id: m}
engine:
  kind: sim
  args: [--speedup, 10]
roles:
  mixed:
    gpus: 1
`

func TestPosition(t *testing.T) {
	t.Parallel()
	doc, err := ParseDocument("small.yaml", []byte(small))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]Position{
		"name":                    {2, 1},
		"model.id":                {3, 9},
		"model.path":              {3, 1}, // not in the file: its section
		"engine.args[1]":          {6, 21},
		"engine.args[7]":          {6, 3},
		"roles.mixed.gpus.count":  {9, 5},
		"roles.decode.gpus.count": {7, 1},
		"kv.disk.path":            {1, 1},
		"":                        {1, 1},
	} {
		if got := doc.Position(path); got != want {
			t.Errorf("%s stands at %v, want %v", path, got, want)
		}
	}
}

// TestLocate: problems of other packages get file and line, in the order of the file; other errors pass.
func TestLocate(t *testing.T) {
	t.Parallel()
	doc, err := ParseDocument("small.yaml", []byte(small))
	if err != nil {
		t.Fatal(err)
	}
	got := doc.Locate(Errors{{Path: "roles.mixed.gpus", What: "b"}, {Path: "engine.kind", What: "a", Hint: "h"}}.Err())
	if want := "small.yaml:5: engine.kind: a; h\nsmall.yaml:9: roles.mixed.gpus: b"; got.Error() != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if other := errors.New("x"); doc.Locate(other) != other || doc.Locate(nil) != nil {
		t.Error("Locate changed an error that is none of ours")
	}
}

// TestDocumentOfBadFile: the places of a bad file can still be asked for.
func TestDocumentOfBadFile(t *testing.T) {
	t.Parallel()
	doc, err := ParseDocument("small.yaml", []byte(small+"colour: red\n"))
	if err == nil || doc.Position("colour") != (Position{10, 1}) {
		t.Errorf("position %v, error %v", doc.Position("colour"), err)
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	d := parse(t, small)
	if d.Cluster != LocalCluster || d.Model.ServedName != "m" || d.Engine.Container.Runtime != NoContainer {
		t.Errorf("got %+v", d)
	}
	want := Role{
		Replicas: 1, Nodes: 1, GPUs: GPURequest{Count: 1}, Parallel: Parallel{1, 1, 1},
		Rollout: Rollout{Surge: new(1), Unavailable: new(0), ProgressDeadline: Duration(15 * time.Minute)},
	}
	if r := d.Roles[Mixed]; !reflect.DeepEqual(r, want) {
		t.Errorf("got role %+v, want %+v", r, want)
	}
	s := d.Serving
	if s.LoadingStall.String() != "15m" || s.DrainTimeout.String() != "1m" || s.OrphanAfter.String() != "1h" || *s.Restarts != 3 {
		t.Errorf("got %+v", s)
	}
	p := parse(t, strings.Replace(small, "{id: m}", "{path: /srv/models/m.gguf}", 1))
	if p.Model.ServedName != "m.gguf" {
		t.Errorf("got served name %q", p.Model.ServedName)
	}
}

// TestExplicitZeroWins: what the file says is never replaced by a default.
func TestExplicitZeroWins(t *testing.T) {
	t.Parallel()
	d := parse(t, small+"    replicas: 0\n    rollout: {surge: 0, unavailable: 1}\nserving: {restarts: 0}\n")
	if r := d.Roles[Mixed]; r.Replicas != 0 || *r.Rollout.Surge != 0 || *r.Rollout.Unavailable != 1 || *d.Serving.Restarts != 0 {
		t.Errorf("got %+v, restarts %d", r, *d.Serving.Restarts)
	}
}

func TestSpread(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		nodes, gpus int
		given, want Parallel
	}{
		{1, 0, Parallel{}, Parallel{1, 1, 1}},
		{2, 0, Parallel{}, Parallel{1, 1, 1}},
		{1, 8, Parallel{}, Parallel{8, 1, 1}},
		{2, 8, Parallel{}, Parallel{8, 2, 1}},
		{2, 8, Parallel{Tensor: 16}, Parallel{16, 1, 1}},
		{2, 8, Parallel{Pipeline: 4}, Parallel{4, 4, 1}},
		{1, 8, Parallel{Data: 2}, Parallel{4, 1, 2}},
		{2, 8, Parallel{Data: 2}, Parallel{8, 1, 2}},
		{2, 8, Parallel{Data: 2, Pipeline: 2}, Parallel{4, 2, 2}},
		{3, 2, Parallel{Data: 2}, Parallel{1, 3, 2}},
		{1, 4, Parallel{Tensor: 4, Pipeline: 2}, Parallel{4, 2, 1}}, // left for the check to refuse
		{1, 2, Parallel{Data: 4}, Parallel{1, 1, 4}},
	} {
		if got := spread(Role{Nodes: c.nodes, GPUs: GPURequest{Count: c.gpus}, Parallel: c.given}); got != c.want {
			t.Errorf("%d nodes with %d GPUs, %+v: got %+v, want %+v", c.nodes, c.gpus, c.given, got, c.want)
		}
	}
}

func TestNotations(t *testing.T) {
	t.Parallel()
	want := Hash(parse(t, small))
	for name, src := range map[string]string{
		"byte order mark": "\ufeff" + small,
		"CRLF":            strings.ReplaceAll(small, "\n", "\r\n"),
		"document marks":  "---\n" + small + "...\n",
		"YAML directive":  "%YAML 1.2\n---\n" + small,
		"trailing mark":   small + "---\n",
		"flow":            `{apiVersion: penstock/v1, name: "small", model: {id: 'm'}, engine: {kind: sim, args: [--speedup, "10"]}, roles: {mixed: {gpus: {count: 1}}}}`,
	} {
		d, err := Parse(name, []byte(src))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if Hash(d) != want {
			t.Errorf("%s: another deployment came out:\n%s", name, Encode(d))
		}
	}
}

// TestLimits: too much of anything is refused at once, without a long look at it.
func TestLimits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ src, want string }{
		"size":     {strings.Repeat("#", MaxSize+1), "at most 1048576"},
		"words":    {strings.Repeat("a: b\n", 50_000), "more than a deployment file ever needs"},
		"brackets": {"a: " + strings.Repeat("[", 5_000), "nested too deeply"},
		"dashes":   {strings.Repeat("- ", 5_000), "nested too deeply"},
		"indents":  {deepMap(2_000), "nested too deeply"},
		"anchors":  {"a: " + strings.Repeat("&a ", 5_000), "anchors"},
		"text":     {small + "slo: {ttft: \"" + strings.Repeat("x", 100_000) + "\"}", "is no span of time"},
	} {
		_, err := Parse(name, []byte(c.src))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %.200v, want %q", name, err, c.want)
		} else if len(err.Error()) > 1000 {
			t.Errorf("%s: the message has %d bytes", name, len(err.Error()))
		}
	}
}

// TestProblemsAreBounded: a file that is something else altogether doesn't flood a terminal, and says so.
func TestProblemsAreBounded(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&b, "k%d: 1\n", i)
	}
	_, err := Parse("big.yaml", []byte(b.String()))
	lines := strings.Split(err.Error(), "\n")
	// 5000 unknown keys and 5 missing ones.
	if len(lines) != maxProblems+1 || lines[maxProblems] != "big.yaml: 4805 more problems" {
		t.Errorf("got %d lines, the last is %q", len(lines), lines[len(lines)-1])
	}
}

func deepMap(depth int) string {
	var b bytes.Buffer
	for i := range depth {
		b.WriteString(strings.Repeat(" ", i%1000) + "a:\n")
	}
	return b.String()
}

func TestNearest(t *testing.T) {
	t.Parallel()
	keys := []string{"replicas", "min", "max", "nodes", "gpus", "servedName"}
	for word, want := range map[string]string{
		"replica": "replicas", "relpicas": "replicas", "gpu": "gpus", "node": "nodes", "served_name": "servedName", "SERVEDNAME": "servedName",
		"maximum": "", "colour": "", "": "", strings.Repeat("replicas", 40): "",
	} {
		if got := Nearest(word, keys); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", word, got, want)
		}
	}
}

// TestValidateWithoutFile: a deployment made in Go is checked by the same rules.
func TestValidateWithoutFile(t *testing.T) {
	t.Parallel()
	d := parse(t, small)
	d.Name = "Small"
	d.Engine.Kind = ""
	d.Roles = map[RoleKind]Role{"mixd": {}, Mixed: {Replicas: -1}}
	d.Serving = Serving{}
	got := Validate(d).Error()
	for _, want := range []string{
		`name: "Small" is no DNS label`, "engine.kind: is missing", `roles.mixd: "mixd" is not known; did you mean mixed?`,
		"roles.mixed.replicas: must be at least 0, not -1", "roles.mixed.nodes: must be more than 0, not 0; leave it out for the default of 1",
		"serving.drainTimeout: must be more than 0, not 0s",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in:\n%s", want, got)
		}
	}
}

func TestMessagesCantActOnTerminals(t *testing.T) {
	t.Parallel()
	_, err := Parse("e\x1b[2J.yaml", []byte(small+"\"k\\e[31m\": 1\n"))
	if err == nil || strings.ContainsFunc(err.Error(), func(u rune) bool { return u < ' ' && u != '\n' }) {
		t.Errorf("got %q", err)
	}
}
