package render

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/nomad/api"
	"github.com/zclconf/go-cty/cty"

	"github.com/penstock/penstock/jobspecs"
)

const nomadHead = "apiVersion: penstock/v1\nname: x\nmodel: {id: a/b}\nengine: {kind: sim}\ncluster: nomad\n"

// nomadCases are deployments beyond the examples.
var nomadCases = map[string]string{
	"every-option": nomadHead + `
roles: {mixed: {replicas: 3, max: 8, gpus: {count: 2, type: H100, memory: 80GB}, cpus: 16, memory: 100500KiB, rollout: {surge: 2}}}
serving: {drainTimeout: 2m}
nomad:
  namespace: llm
  datacenters: [dc1, "dc2-*"]
  nodePool: gpu
  driver: docker
  image: registry.example.org/serving:1
  mounts: ["/models:/models:ro"]
  user: "1000"
  priority: 70
  constraints: [{attribute: "${attr.cpu.arch}", value: amd64}, {attribute: "${meta.rack}", operator: is_set}]
  spread: ${node.datacenter}`,
	"exec-in-place": nomadHead + "roles: {mixed: {rollout: {surge: 0, unavailable: 1}}}\nnomad: {driver: exec}\n",
	"podman":        nomadHead + "roles: {mixed: {gpus: 1}}\nnomad: {driver: podman, image: \"a/b\"}\n",
}

func nomadSite() NomadSite {
	return NomadSite{Installation: "0123456789abcdef0123456789abcdef", Penstock: "/usr/local/bin/penstock"}
}

// nomadJobs are all jobs that a deployment's first start becomes.
func nomadJobs(t *testing.T, s NomadSite, d jobspecs.Deployment) (jobs []*api.Job) {
	t.Helper()
	counts := map[jobspecs.RoleKind]NomadCount{}
	for kind, r := range d.Roles {
		if NomadCounted(r) {
			counts[kind] = NomadCount{Revision: 1, N: r.Replicas}
			continue
		}
		j, err := NomadGang(s, d, NomadLaunch{Role: kind, Launch: d.Name + "-" + string(kind) + "-0-k3v9x2mq", Run: "0c9a4bd1", Exclude: []string{"bad2", "bad1"}})
		if err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, j)
	}
	if len(counts) == 0 {
		return jobs
	}
	j, err := NomadService(s, d, counts)
	if err != nil {
		t.Fatal(err)
	}
	return append(jobs, j)
}

// nomadWorld is every example and case as jobs, and the controller.
func nomadWorld(t *testing.T) map[string]*api.Job {
	t.Helper()
	world := map[string]*api.Job{
		"nomad-controller": NomadController(NomadControllerJob{Driver: "exec", Penstock: "/usr/local/bin/penstock", Volume: "penstock", AgentsPort: 7171, GatewayPort: 7172}),
		"nomad-controller-acl": NomadController(NomadControllerJob{
			Driver: "podman", Image: "penstock:1", Penstock: "/penstock", Volume: "penstock", AgentsPort: 7171, GatewayPort: 7172,
			Policy: "nomad/jobs/penstock-controller", Namespace: "llm", Datacenter: "dc1", NodePool: "cpu",
		}),
	}
	add := func(name string, s NomadSite, d jobspecs.Deployment) {
		for _, j := range nomadJobs(t, s, d) {
			suffix := ""
			if *j.Type == "batch" {
				suffix = "-gang"
			}
			world["nomad-"+name+suffix] = j
		}
	}
	for name, text := range nomadCases {
		add(name, nomadSite(), parse(t, name, text))
	}
	later := nomadSite()
	later.Disconnect, later.MaxKillTimeout = true, 10*time.Minute
	add("of-1.8", later, parse(t, "of-1.8", nomadCases["every-option"]))
	files, err := filepath.Glob("../examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d examples: %v", len(files), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		d := parse(t, file, string(text))
		d.Cluster = jobspecs.NomadCluster
		add("example-"+strings.TrimSuffix(filepath.Base(file), ".yaml"), nomadSite(), d)
	}
	return world
}

func TestNomadGolden(t *testing.T) {
	t.Parallel()
	for name, j := range nomadWorld(t) {
		text, err := NomadJSON(j)
		if err != nil {
			t.Fatal(err)
		}
		for ending, got := range map[string][]byte{".nomad.hcl": NomadHCL(j), ".nomad.json": text} {
			golden := filepath.Join("testdata", name+ending)
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(got)); d != "" {
				t.Errorf("%s (-want +got):\n%s", golden, d)
			}
		}
	}
}

// The HCL says what the job says, neither less nor more.
func TestNomadTextSaysWhatTheJobSays(t *testing.T) {
	t.Parallel()
	for name, j := range nomadWorld(t) {
		file, diags := hclsyntax.ParseConfig(NomadHCL(j), name, hcl.InitialPos)
		if diags.HasErrors() {
			t.Errorf("%s: %v", name, diags)
			continue
		}
		blocks := file.Body.(*hclsyntax.Body).Blocks
		if len(blocks) != 1 || blocks[0].Type != "job" || blocks[0].Labels[0] != *j.ID {
			t.Fatalf("%s is no job %s", name, *j.ID)
		}
		want := saidBy(reflect.ValueOf(*j))
		delete(want, "id")
		delete(want, "name")
		if d := cmp.Diff(want, written(t, blocks[0].Body)); d != "" {
			t.Errorf("%s (-job +HCL):\n%s", name, d)
		}
	}
}

// saidBy is all that a struct of Nomad's says, by the names that its fields have in HCL.
func saidBy(v reflect.Value) map[string]any {
	said := map[string]any{}
	for i := range v.NumField() {
		f := v.Field(i)
		name, kind, _ := strings.Cut(v.Type().Field(i).Tag.Get("hcl"), ",")
		if v.Type().Field(i).Name == "EmbeddedTmpl" {
			name = "data"
		}
		if name == "" || kind == "label" || f.IsZero() && f.Kind() != reflect.Pointer || f.Kind() == reflect.Pointer && f.IsNil() {
			continue
		}
		if x := plain(f); x != nil {
			said[name] = x
		}
	}
	switch c := v.Interface().(type) {
	case api.Constraint: // the one that people write in another way
		if c.Operand == "distinct_hosts" {
			return map[string]any{"distinct_hosts": "true"}
		}
	case api.NetworkResource:
		said = map[string]any{"port": map[string]any{}}
		for _, p := range append(c.DynamicPorts, c.ReservedPorts...) {
			port := map[string]any{}
			if p.Value > 0 {
				port["static"] = cty.NumberIntVal(int64(p.Value)).AsBigFloat().String()
			}
			said["port"].(map[string]any)[p.Label] = port
		}
	}
	return said
}

// plain turns a value into texts, lists and maps.
func plain(v reflect.Value) any {
	if d, ok := v.Interface().(time.Duration); ok {
		return span(d)
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return plain(v.Elem())
	case reflect.Struct:
		return saidBy(v)
	case reflect.Map:
		m := map[string]any{}
		for _, k := range v.MapKeys() {
			m[k.String()] = plain(v.MapIndex(k))
		}
		return m
	case reflect.Slice:
		return items(v)
	case reflect.Bool:
		return map[bool]string{true: "true", false: "false"}[v.Bool()]
	case reflect.String:
		return v.String()
	case reflect.Int, reflect.Int8, reflect.Int64:
		return cty.NumberIntVal(v.Int()).AsBigFloat().Text('f', 0)
	case reflect.Uint64:
		return cty.NumberUIntVal(v.Uint()).AsBigFloat().Text('f', 0)
	}
	panic("a field of kind " + v.Kind().String())
}

// items is a list: of texts, of blocks with labels (by label), or of blocks without.
func items(v reflect.Value) any {
	labelled, list := map[string]any{}, []any{}
	for i := range v.Len() {
		x := v.Index(i)
		list = append(list, plain(x))
		if x.Kind() == reflect.Pointer {
			if f := x.Elem().FieldByName("Name"); f.IsValid() {
				if t, _ := x.Elem().Type().FieldByName("Name"); strings.HasSuffix(t.Tag.Get("hcl"), ",label") {
					labelled[reflect.Indirect(f).String()] = list[i]
				}
			}
		}
	}
	switch {
	case len(labelled) > 0:
		return labelled
	case len(list) > 0 && reflect.TypeOf(list[0]).Kind() == reflect.Map && len(list) == 1:
		return list[0]
	}
	return list
}

// written is what a body of HCL says, in the same form.
func written(t *testing.T, b *hclsyntax.Body) map[string]any {
	t.Helper()
	said := map[string]any{}
	for name, a := range b.Attributes {
		said[name] = evaluated(t, a.Expr)
	}
	several := map[string][]any{}
	for _, block := range b.Blocks {
		x := written(t, block.Body)
		if len(block.Labels) == 1 {
			if said[block.Type] == nil {
				said[block.Type] = map[string]any{}
			}
			said[block.Type].(map[string]any)[block.Labels[0]] = x
			continue
		}
		several[block.Type] = append(several[block.Type], x)
	}
	for kind, list := range several {
		if said[kind] = any(list); len(list) == 1 {
			said[kind] = list[0]
		}
	}
	return said
}

// evaluated is an expression's value, with Nomad's variables left as they are written.
func evaluated(t *testing.T, e hclsyntax.Expression) any {
	t.Helper()
	if tmpl, ok := e.(*hclsyntax.TemplateExpr); ok {
		var text strings.Builder
		for _, part := range tmpl.Parts {
			if s, ok := part.(*hclsyntax.ScopeTraversalExpr); ok {
				text.WriteString("${" + traversal(s.Traversal) + "}")
				continue
			}
			text.WriteString(evaluated(t, part).(string))
		}
		return text.String()
	}
	switch e := e.(type) {
	case *hclsyntax.TemplateWrapExpr:
		return "${" + traversal(e.Wrapped.(*hclsyntax.ScopeTraversalExpr).Traversal) + "}"
	case *hclsyntax.TupleConsExpr:
		list := []any{}
		for _, x := range e.Exprs {
			list = append(list, evaluated(t, x))
		}
		return list
	}
	v, diags := e.Value(nil)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	switch v.Type() {
	case cty.Number:
		return v.AsBigFloat().Text('f', 0)
	case cty.Bool:
		return map[bool]string{true: "true", false: "false"}[v.True()]
	}
	return v.AsString()
}

func traversal(t hcl.Traversal) string {
	var words []string
	for _, step := range t {
		switch s := step.(type) {
		case hcl.TraverseRoot:
			words = append(words, s.Name)
		case hcl.TraverseAttr:
			words = append(words, s.Name)
		}
	}
	return strings.Join(words, ".")
}
