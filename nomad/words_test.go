package nomad

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/api"

	"github.com/penstock/penstock/jobspecs/render"
	"github.com/penstock/penstock/scheduler/cluster"
)

func TestPlacementInWords(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		metric api.AllocationMetric
		want   []string
	}{
		"no client at all":     {api.AllocationMetric{}, []string{"no client", "nomad.datacenters"}},
		"no such device":       {api.AllocationMetric{NodesEvaluated: 3, ConstraintFiltered: map[string]int{"missing devices": 3}}, []string{"3 clients without the GPUs", "roles.ROLE.gpus"}},
		"memory":               {api.AllocationMetric{NodesEvaluated: 1, DimensionExhausted: map[string]int{"memory": 1}}, []string{"1 client without enough free memory", "roles.ROLE.memory"}},
		"cards are taken":      {api.AllocationMetric{NodesEvaluated: 2, DimensionExhausted: map[string]int{"devices: no devices match request": 2}}, []string{"2 clients whose GPUs are taken", "wait"}},
		"a driver":             {api.AllocationMetric{NodesEvaluated: 2, ConstraintFiltered: map[string]int{"missing drivers: docker": 2}}, []string{"without the task driver", "nomad.driver"}},
		"a constraint":         {api.AllocationMetric{NodesEvaluated: 2, ConstraintFiltered: map[string]int{"${attr.cpu.arch} = arm64": 2}}, []string{"kept out by: ${attr.cpu.arch} = arm64", "nomad.constraints"}},
		"several, sorted":      {api.AllocationMetric{NodesEvaluated: 3, ConstraintFiltered: map[string]int{"distinct_hosts": 1}, DimensionExhausted: map[string]int{"cpu": 2}}, []string{"1 client with a member already, 2 clients without enough free CPU"}},
		"a quota":              {api.AllocationMetric{NodesEvaluated: 3, QuotaExhausted: []string{"memory exhausted"}}, []string{"quota is used up: memory exhausted"}},
		"nothing that is said": {api.AllocationMetric{NodesEvaluated: 3}, []string{"none of 3 clients fits"}},
	} {
		got := placement(&test.metric)
		for _, want := range test.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %q lacks %q", name, got, want)
			}
		}
	}
}

func TestStates(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	ended := func(code, signal int, details map[string]string) map[string]*api.TaskState {
		return map[string]*api.TaskState{render.NomadTask: {StartedAt: start, FinishedAt: start.Add(time.Minute), Events: []*api.TaskEvent{
			{Type: api.TaskStarted}, {Type: api.TaskTerminated, ExitCode: code, Signal: signal, Details: details},
		}}}
	}
	stop := api.AllocDesiredStatusStop
	for name, test := range map[string]struct {
		alloc  api.AllocationListStub
		state  cluster.JobState
		cause  cluster.EndCause
		exit   *cluster.Exit
		reason string
	}{
		"placed":              {api.AllocationListStub{ClientStatus: "pending", DesiredStatus: "run"}, cluster.JobPending, "", nil, "has not begun"},
		"runs":                {api.AllocationListStub{ClientStatus: "running", DesiredStatus: "run"}, cluster.JobRunning, "", nil, ""},
		"drained":             {api.AllocationListStub{ClientStatus: "running", DesiredStatus: stop, DesiredDescription: "alloc is being migrated", NodeName: "n1"}, cluster.JobEnding, "", nil, "client n1 is being drained"},
		"its client is away":  {api.AllocationListStub{ClientStatus: "unknown", DesiredStatus: "run"}, cluster.JobUnknown, "", nil, "has lost its servers"},
		"a status of later":   {api.AllocationListStub{ClientStatus: "hibernating", DesiredStatus: "run"}, cluster.JobUnknown, "", nil, ""},
		"failed":              {api.AllocationListStub{ClientStatus: "failed", DesiredStatus: "run", TaskStates: ended(3, 0, nil)}, cluster.JobEnded, "", &cluster.Exit{Code: 3}, "code 3"},
		"killed":              {api.AllocationListStub{ClientStatus: "failed", DesiredStatus: "run", TaskStates: ended(137, 9, map[string]string{"signal": "9", "exit_code": "137"})}, cluster.JobEnded, "", &cluster.Exit{Signal: 9}, "signal 9"},
		"out of memory":       {api.AllocationListStub{ClientStatus: "failed", DesiredStatus: "run", TaskStates: ended(137, 9, map[string]string{"oom_killed": "true"})}, cluster.JobEnded, cluster.EndedOutOfMemory, &cluster.Exit{Signal: 9}, "memory"},
		"ended by itself":     {api.AllocationListStub{ClientStatus: "complete", DesiredStatus: "run", TaskStates: ended(0, 0, nil)}, cluster.JobEnded, "", &cluster.Exit{}, "by itself"},
		"lost":                {api.AllocationListStub{ClientStatus: "lost", DesiredStatus: stop, TaskStates: ended(0, 0, nil)}, cluster.JobEnded, cluster.EndedNodeFailed, nil, "may live on"},
		"preempted":           {api.AllocationListStub{ClientStatus: "complete", DesiredStatus: "evict", PreemptedByAllocation: "x", TaskStates: ended(0, 0, nil)}, cluster.JobEnded, cluster.EndedPreempted, &cluster.Exit{}, "preempted"},
		"moved":               {api.AllocationListStub{ClientStatus: "complete", DesiredStatus: stop, DesiredDescription: "alloc is being migrated", TaskStates: ended(0, 0, nil)}, cluster.JobEnded, cluster.EndedPreempted, &cluster.Exit{}, "was drained"},
		"another revision":    {api.AllocationListStub{ClientStatus: "complete", DesiredStatus: stop, DesiredDescription: "alloc is being updated due to job update", TaskStates: ended(0, 0, nil)}, cluster.JobEnded, cluster.EndedAsked, &cluster.Exit{}, "another revision"},
		"stopped by somebody": {api.AllocationListStub{ClientStatus: "complete", DesiredStatus: stop, DesiredDescription: "alloc not needed as job is stopped", TaskStates: ended(1, 0, nil)}, cluster.JobEnded, cluster.EndedCancelled, &cluster.Exit{Code: 1}, "stopped"},
		"never started": {api.AllocationListStub{ClientStatus: "failed", DesiredStatus: "run", TaskStates: map[string]*api.TaskState{render.NomadTask: {Events: []*api.TaskEvent{
			{Type: api.TaskDriverFailure, DisplayMessage: "no such program"},
		}}}}, cluster.JobEnded, "", nil, "no such program"},
	} {
		got := view(&test.alloc)
		if got.State != test.state || got.Cause != test.cause || !strings.Contains(got.Reason, test.reason) {
			t.Errorf("%s: %s %q (%s), want %s %q (%s)", name, got.State, got.Cause, got.Reason, test.state, test.cause, test.reason)
		}
		if d := cmp.Diff(test.exit, got.Exit); d != "" {
			t.Errorf("%s: exit %s", name, d)
		}
	}
}

func TestNamesAndNumbers(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]int{"penstock-a.decode[3]": 3, "penstock-a.decode[0]": 0, "x": 0, "x[y]": 0, "x[-1]": 0} {
		if got := indexOf(name); got != want {
			t.Errorf("%s: index %d", name, got)
		}
	}
	for version, want := range map[string]bool{"1.7.9": false, "1.8.0": true, "1.10.0-beta.1": true, "2.0": true, "": false, "x.y": false} {
		if got := since(version, 1, 8); got != want {
			t.Errorf("%s is of 1.8 or later: %v", version, got)
		}
	}
	memory := func(n int64, unit string) *api.Attribute { return &api.Attribute{IntVal: &n, Unit: unit} }
	text := "80 GiB"
	for want, a := range map[uint64]*api.Attribute{81559 << 20: memory(81559, "MiB"), 80 << 30: {StringVal: &text}, 0: memory(5, "parsec")} {
		if got := attributeBytes(a); got != want {
			t.Errorf("%+v: %d bytes, want %d", a, got, want)
		}
	}
	if id := LaunchOf("b1406133-2056-db3a-7e49-b23523b86801"); !launchIDs.MatchString(string(id)) || id != "alloc-b14061332056db3a7e49b23523b86801" {
		t.Errorf("launch %s", id)
	}
	if key, ok := parseNative(nativeID(jobKey{"llm", "penstock-x"})); !ok || key != (jobKey{"llm", "penstock-x"}) {
		t.Errorf("%v", key)
	}
}

func TestOpenChecks(t *testing.T) {
	t.Parallel()
	none := func() ([]byte, error) { return nil, nil }
	good := Options{
		API: &api.Config{Address: "http://127.0.0.1:1"}, Installation: installation, Penstock: "/penstock",
		Join: func(string) ([]byte, error) { return nil, nil }, Endpoint: none,
	}
	for name, spoil := range map[string]func(*Options){
		"no address":             func(o *Options) { o.API = nil },
		"no secret":              func(o *Options) { o.Join = nil },
		"an odd installation":    func(o *Options) { o.Installation = "x" },
		"a program without path": func(o *Options) { o.Penstock = "penstock" },
	} {
		o := good
		spoil(&o)
		if _, err := Open(o); err == nil {
			t.Errorf("%s passes", name)
		}
	}
	if !errors.Is(verdict(errors.New("connection refused")), cluster.ErrUnknown) {
		t.Error("no answer is not unknown")
	}
}
