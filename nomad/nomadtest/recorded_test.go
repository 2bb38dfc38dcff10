package nomadtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/types"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"golang.org/x/tools/go/packages"
)

// recorded are a real server's answers and the types that nomad/api reads them into; path is where the fake gives the same.
var recorded = []struct {
	file, path string
	into       any
}{
	{"jobs-list.json", "/v1/jobs?meta=true", []*api.JobListStub{}},
	{"job-read.json", "/v1/job/web", api.Job{}},
	{"job-allocations-after-kill.json", "/v1/job/web/allocations", []*api.AllocationListStub{}},
	{"job-allocations-stopped.json", "/v1/job/web/allocations", []*api.AllocationListStub{}},
	{"allocations-client-lost.json", "/v1/allocations", []*api.AllocationListStub{}},
	{"alloc-read.json", "/v1/allocation/ALLOC", api.Allocation{}},
	{"job-evaluations.json", "/v1/job/web/evaluations", []*api.Evaluation{}},
	{"evaluations-blocked.json", "/v1/job/big/evaluations", []*api.Evaluation{}},
	{"deployment-canary.json", "/v1/job/web/deployment", api.Deployment{}},
	{"scale-status-after.json", "/v1/job/web/scale", api.JobScaleStatusResponse{}},
	{"alloc-read-devices.json", "/v1/allocation/ALLOC", api.Allocation{}},
	{"allocations-list.json", "/v1/allocations?resources=true", []*api.AllocationListStub{}},
	{"nodes-list-devices.json", "/v1/nodes?resources=true", []*api.NodeListStub{}},
	{"node-read-devices.json", "/v1/node/NODE", api.Node{}},
	{"jobs-list-meta.json", "/v1/jobs?meta=true", []*api.JobListStub{}},
	{"job-versions.json", "/v1/job/web/versions", struct{ Versions []*api.Job }{}},
	{"var-put.json", "/v1/var/nomad/jobs/web", api.Variable{}},
	{"jobs-register.json", "", api.JobRegisterResponse{}},
	{"scale-ok.json", "", api.JobRegisterResponse{}},
	{"job-stop.json", "", api.JobDeregisterResponse{}},
	{"job-plan.json", "", api.JobPlanResponse{}},
	{"job-validate.json", "", api.JobValidateResponse{}},
	{"event-stream.json", "", []api.Events{}},
}

// elsewhere are fields that no body of a server of 1.6 has, and why.
var elsewhere = map[string]string{
	"TaskGroup.Disconnect": "from 1.8 on", "QueryMeta.LastIndex": "a header", "Events.Err": "made by the client",
	"Attribute.FloatVal": "one of four, by the attribute's type",
}

// asked are types of requests, and what the client makes of headers; no answer's body has them.
var asked = strings.Fields("Config QueryOptions WriteOptions RegisterOptions PlanOptions ScalingRequest")

// TestRecorded: every field of an answer that package nomad reads is in a real server's answers, and in the fake's, with the
// JSON type that Go reads it into.
func TestRecorded(t *testing.T) {
	t.Parallel()
	real := fields{}
	for _, r := range recorded {
		text, err := os.ReadFile(filepath.Join("testdata", "nomad-1.6.3", r.file))
		if err != nil {
			t.Fatal(err)
		}
		real.walk(t, r.file, reflect.TypeOf(r.into), text)
	}
	fake := fakeFields(t)
	read := readBy(t, "github.com/penstock/penstock/nomad")
	if len(read) < 20 {
		t.Fatalf("package nomad reads %v only", read)
	}
	shown := 0
	for _, f := range read {
		owner, _, _ := strings.Cut(f, ".")
		if !real.has(owner) {
			if !slices.Contains(asked, owner) {
				t.Errorf("package nomad reads %s, and no recorded answer has a %s", f, owner)
			}
			continue
		}
		shown++
		if elsewhere[f] == "" && real[f] == "" {
			t.Errorf("package nomad reads %s, which no answer of a real server has", f)
		}
		if elsewhere[f] == "" && fake[f] == "" {
			t.Errorf("package nomad reads %s, which no answer of the fake has", f)
		}
	}
	t.Logf("%d fields of answers are read", shown)
	for f, kind := range fake {
		if other := real[f]; other != "" && other != null && kind != null && kind != other {
			t.Errorf("%s is %s at the fake and %s at a real server", f, kind, other)
		}
	}
}

// fields are the kinds of JSON in which fields of nomad/api's types were seen: "Job.ID" -> "string".
type fields map[string]string

const null = "null"

func (fs fields) has(owner string) bool {
	for f := range fs {
		if strings.HasPrefix(f, owner+".") {
			return true
		}
	}
	return false
}

func (fs fields) walk(t *testing.T, where string, into reflect.Type, text []byte) {
	t.Helper()
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	if err := json.Unmarshal(text, reflect.New(into).Interface()); err != nil {
		t.Errorf("%s is not read into %s: %v", where, into, err)
	}
	fs.see(into, v)
}

// see goes along a value and its type together.
func (fs fields) see(typ reflect.Type, v any) {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	switch x := v.(type) {
	case []any:
		for _, e := range x {
			if typ.Kind() == reflect.Slice {
				fs.see(typ.Elem(), e)
			}
		}
	case map[string]any:
		switch typ.Kind() {
		case reflect.Map:
			for _, e := range x {
				fs.see(typ.Elem(), e)
			}
		case reflect.Struct:
			fs.seeStruct(typ, x)
		}
	}
}

func (fs fields) seeStruct(typ reflect.Type, x map[string]any) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		if f.Anonymous {
			fs.seeStruct(f.Type, x)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			name = f.Name
		}
		v, ok := x[name]
		if !ok {
			continue
		}
		key := typ.Name() + "." + f.Name
		if kind := kindOf(v); fs[key] == "" || fs[key] == null {
			fs[key] = kind
		}
		fs.see(f.Type, v)
	}
}

func kindOf(v any) string {
	if v == nil {
		return null
	}
	return reflect.TypeOf(v).Kind().String()
}

// fakeFields asks the fake for the same answers.
func fakeFields(t *testing.T) fields {
	t.Helper()
	s := Start(t, Options{Nodes: Nodes(2, 1)})
	w := world{t, s, s.Client(t)}
	j := func(script string) *api.Job {
		j := withScript("web", 1, script)
		j.Meta = map[string]string{"a": "b"}
		j.TaskGroups[0].Update = &api.UpdateStrategy{Canary: ptr(1), MaxParallel: ptr(1)}
		j.TaskGroups[0].Networks = []*api.NetworkResource{{DynamicPorts: []api.Port{{Label: "http"}}}}
		j.TaskGroups[0].Tasks[0].Resources.Devices = []*api.RequestedDevice{{Name: "nvidia/gpu", Count: ptr(uint64(1))}}
		return j
	}
	out := fields{}
	note := func(v any) {
		text, err := json.Marshal(v)
		w.no(err)
		out.walk(t, "the fake", reflect.TypeOf(v), text)
	}
	note(*w.register(j("exec sleep 1000")))
	w.deployment("web", "successful")
	scaled, _, err := w.c.Jobs().Scale("web", "decode", ptr(2), "m", false, nil, nil)
	w.no(err)
	note(*scaled)
	w.deployment("web", "successful")
	first := w.running("web", 2)[0]
	s.KillTask(first.ID)
	w.until("it is replaced", func() bool { return len(w.allocs("web", "failed")) == 1 && len(w.allocs("web", "running")) == 2 })
	w.register(withDevices("big", 9))
	w.until("big waits", func() bool {
		list, _, err := w.c.Jobs().Evaluations("big", nil)
		w.no(err)
		return list[0].Status == "blocked"
	})
	p, _, err := w.c.Jobs().Plan(withDevices("big", 9), false, nil)
	w.no(err)
	note(*p)
	_, _, err = w.c.Variables().Create(&api.Variable{Path: "nomad/jobs/web", Items: api.VariableItems{"a": "b"}}, nil)
	w.no(err)
	for _, r := range recorded {
		if r.path != "" {
			path := strings.NewReplacer("ALLOC", first.ID, "NODE", first.NodeID).Replace(r.path)
			out.walk(t, path, reflect.TypeOf(r.into), w.get(path))
		}
	}
	v, _, err := w.c.Jobs().Validate(sleeper("bad", -1), nil)
	w.no(err)
	note(*v)
	s.mu.Lock()
	lines := s.lines(0, "*", nil)
	s.mu.Unlock()
	out.walk(t, "events", reflect.TypeFor[[]api.Events](), slices.Concat([]byte("["), bytes.Join(lines, []byte(",")), []byte("]")))
	return out
}

func withDevices(id string, n int) *api.Job {
	j := sleeper(id, n)
	j.TaskGroups[0].Tasks[0].Resources.Devices = []*api.RequestedDevice{{Name: "nvidia/gpu", Count: ptr(uint64(1))}}
	return j
}

func (w world) get(path string) []byte {
	w.Helper()
	c := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(w.s.Addr() + path)
	w.no(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	w.no(err)
	if resp.StatusCode != http.StatusOK {
		w.Fatalf("%s: %s %s", path, resp.Status, text)
	}
	return text
}

// readBy lists the fields of nomad/api's structs that a package's source names in selectors.
func readBy(t *testing.T, pkg string) []string {
	t.Helper()
	const need = packages.NeedName | packages.NeedTypes | packages.NeedTypesInfo | packages.NeedSyntax | packages.NeedImports | packages.NeedExportFile
	loaded, err := packages.Load(&packages.Config{Mode: need}, pkg)
	if err != nil || len(loaded) != 1 || len(loaded[0].Errors) > 0 {
		t.Fatalf("load %s: %v %v", pkg, err, loaded)
	}
	found := map[string]bool{}
	for _, sel := range loaded[0].TypesInfo.Selections {
		if sel.Kind() != types.FieldVal {
			continue
		}
		recv := sel.Recv()
		if p, ok := recv.(*types.Pointer); ok {
			recv = p.Elem()
		}
		named, ok := recv.(*types.Named)
		if ok && named.Obj().Pkg() != nil && named.Obj().Pkg().Path() == "github.com/hashicorp/nomad/api" {
			found[fmt.Sprintf("%s.%s", named.Obj().Name(), sel.Obj().Name())] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// TestRecordedErrors: the fake refuses in a real server's words.
func TestRecordedErrors(t *testing.T) {
	w := start(t, Options{})
	r := w.register(sleeper("web", 1))
	said := map[string]error{}
	_, _, said["scale-during-deployment"] = w.c.Jobs().Scale("web", "decode", ptr(2), "", false, nil, nil)
	_, _, said["scale-too-big"] = w.c.Jobs().Scale("web", "decode", ptr(900), "", false, nil, nil)
	_, _, said["register-conflict"] = w.c.Jobs().EnforceRegister(sleeper("web", 2), 1, nil)
	_, _, said["job-missing"] = w.c.Jobs().Info("other", nil)
	_, _, said["alloc-missing"] = w.c.Allocations().Info(newID(), nil)
	numbers := strings.NewReplacer("9 > 4", "900 > 200", "index: 11", fmt.Sprintf("index: %d", r.JobModifyIndex))
	for name, err := range said {
		text, e := os.ReadFile(filepath.Join("testdata", "nomad-1.6.3", name+".txt"))
		w.no(e)
		want := strings.TrimSpace(numbers.Replace(string(text)))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}
