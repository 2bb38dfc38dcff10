package plan

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/fleet"
)

// t0 is 12:00:00 in the cases: their times are distances from it.
var t0 = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// world is the input of a case.
type world struct {
	wanted Wanted
	seen   Seen
	now    time.Time
}

// line is one line of a case: a word, its arguments, and its settings (name=value, or a name alone).
type line struct {
	t    *testing.T
	text string
	word string
	args []string
	set  map[string]string
}

func parseLine(t *testing.T, text string) line {
	quoted := false
	fields := strings.FieldsFunc(text, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return unicode.IsSpace(r) && !quoted
	})
	l := line{t: t, text: text, word: fields[0], set: map[string]string{}}
	for _, f := range fields[1:] {
		k, v, ok := strings.Cut(f, "=")
		l.set[k] = strings.Trim(v, `"`)
		if !ok {
			l.args = append(l.args, strings.Trim(f, `"`))
		}
	}
	return l
}

func (l line) int(k string, def int) int {
	if l.set[k] == "" {
		return def
	}
	n, err := strconv.Atoi(l.set[k])
	if err != nil {
		l.t.Fatalf("%s: %v", l.text, err)
	}
	return n
}

func (l line) dur(k string) time.Duration {
	if l.set[k] == "" {
		return 0
	}
	d, err := time.ParseDuration(l.set[k])
	if err != nil {
		l.t.Fatalf("%s: %v", l.text, err)
	}
	return d
}

// time is t0 plus the setting; zero where it is not set.
func (l line) time(k string) time.Time {
	if l.set[k] == "" {
		return time.Time{}
	}
	return t0.Add(l.dur(k))
}

func (l line) has(k string) bool { _, ok := l.set[k]; return ok }

// parseWorld reads a case. The words: see the functions.
func parseWorld(t *testing.T, text string) world {
	t.Helper()
	w := world{now: t0, seen: Seen{Clusters: map[jobspecs.ClusterKind]Cluster{}, Busy: map[cluster.LaunchID]string{}, Missing: map[cluster.LaunchID]Missing{}}}
	w.seen.Since = t0.Add(-time.Hour)
	agents := fleet.New(fleet.Options{})
	for s := range strings.Lines(text) {
		if s = strings.TrimSpace(s); s == "" || s[0] == '#' {
			continue
		}
		switch l := parseLine(t, s); l.word {
		case "now":
			w.now = t0.Add(must(time.ParseDuration(l.args[0]))(t))
		case "since":
			w.seen.Since = t0.Add(must(time.ParseDuration(l.args[0]))(t))
		case "deployment":
			w.wanted.Deployments = append(w.wanted.Deployments, l.deployment())
		case "revision":
			d := &w.wanted.Deployments[len(w.wanted.Deployments)-1]
			d.Revisions[must(strconv.Atoi(l.args[0]))(t)] = l.spec(d.Name)
		case "cluster":
			w.seen.Clusters[jobspecs.ClusterKind(l.args[0])] = l.cluster()
		case "launch":
			w.seen.Launches = append(w.seen.Launches, l.launch())
		case "job":
			l.job(&w)
		case "agent":
			l.agent(agents, w.seen.Launches)
		case "missing":
			w.seen.Missing[cluster.LaunchID(l.args[0])] = Missing{Answers: l.int("answers", 0), Since: l.time("since")}
		case "busy":
			w.seen.Busy[cluster.LaunchID(l.args[0])] = l.args[1]
		default:
			t.Fatalf("%s: what is that?", s)
		}
	}
	w.seen.Fleet = agents.Snapshot(w.now)
	return w
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// deployment NAME ROLE=COUNT... revision=1 previous=0 scale:ROLE=N stopped proven damaged="why" begun= gpu-time= asked=,
// said:ROLE=N@REVISION asked:ROLE=N@REVISION (what a counting cluster was told, at version 1),
// and what spec takes
func (l line) deployment() Deployment {
	d := Deployment{
		Name: l.args[0], Spec: l.spec(l.args[0]), Revision: l.int("revision", 1), Previous: l.int("previous", 0),
		Stopped: l.has("stopped"), Proven: l.has("proven"), Damaged: l.set["damaged"],
		Scale: map[jobspecs.RoleKind]int{}, Told: map[jobspecs.RoleKind]cluster.Told{}, Revisions: map[int]jobspecs.Deployment{},
		Since: l.time("begun"), GPUTime: l.dur("gpu-time"), AskedAt: l.time("asked"),
	}
	for _, k := range slices.Backward(slices.Sorted(maps.Keys(l.set))) { // said before asked
		v := l.set[k]
		if role, ok := strings.CutPrefix(k, "scale:"); ok {
			d.Scale[jobspecs.RoleKind(role)] = l.int(k, 0)
		}
		if role, ok := strings.CutPrefix(k, "said:"); ok {
			n, revision, _ := strings.Cut(v, "@")
			d.Told[jobspecs.RoleKind(role)] = cluster.Told{N: must(strconv.Atoi(n))(l.t), Revision: must(strconv.Atoi(revision))(l.t), Version: 1}
		}
		if role, ok := strings.CutPrefix(k, "asked:"); ok {
			n, revision, _ := strings.Cut(v, "@")
			t := d.Told[jobspecs.RoleKind(role)]
			t.Asked, t.AskedN, t.AskedRevision = true, must(strconv.Atoi(n))(l.t), must(strconv.Atoi(revision))(l.t)
			d.Told[jobspecs.RoleKind(role)] = t
		}
	}
	return d
}

// spec: ROLE=COUNT... gpus=1 nodes=1 type= args= surge= unavailable= deadline= drain= cluster=local partition= keep-alive= until= gpu-hours= idle=
func (l line) spec(name string) jobspecs.Deployment {
	d := jobspecs.Deployment{Name: name, Cluster: jobspecs.LocalCluster, Roles: map[jobspecs.RoleKind]jobspecs.Role{}}
	if c := l.set["cluster"]; c != "" {
		d.Cluster = jobspecs.ClusterKind(c)
	}
	d.Serving.DrainTimeout = jobspecs.Duration(l.dur("drain"))
	d.Slurm.Partition = l.set["partition"]
	for n := range strings.FieldsFuncSeq(l.set["local"], func(r rune) bool { return r == ',' }) {
		d.Local.Nodes = append(d.Local.Nodes, jobspecs.LocalNode{Name: n})
	}
	d.Lifetime = jobspecs.Lifetime{
		KeepAlive: jobspecs.Duration(l.dur("keep-alive")), Until: l.set["until"], GPUHours: l.int("gpu-hours", 0), Idle: jobspecs.Duration(l.dur("idle")),
	}
	for _, kind := range jobspecs.RoleKinds {
		if !l.has(string(kind)) {
			continue
		}
		r := jobspecs.Role{Replicas: l.int(string(kind), 0), Nodes: l.int("nodes", 1)}
		r.GPUs = jobspecs.GPURequest{Count: l.int("gpus", 1), Type: l.set["type"]}
		if l.has("args") {
			r.Args = []string{l.set["args"]}
		}
		for k, p := range map[string]**int{"surge": &r.Rollout.Surge, "unavailable": &r.Rollout.Unavailable} {
			if l.has(k) {
				n := l.int(k, 0)
				*p = &n
			}
		}
		r.Rollout.ProgressDeadline = jobspecs.Duration(l.dur("deadline"))
		d.Roles[kind] = r
	}
	return d
}

// cluster KIND NODE=GPUS... places down:NODE silent="why" no-capacity="why" counts told:DEPLOYMENT/ROLE=N@REVISION, and of all
// that it was told version=1 who= when= own rollout= unplaced= unplaced-why=
func (l line) cluster() Cluster {
	c := Cluster{JobsKnown: !l.has("silent"), CapacityKnown: !l.has("silent") && !l.has("no-capacity"), Counts: l.has("counts"), OnlyCounts: l.has("counts"), CountsKnown: l.has("counts") && !l.has("silent")}
	c.Why = l.set["silent"] + l.set["no-capacity"]
	c.Capacity.Places = l.has("places")
	for k, v := range l.set {
		if ref, ok := strings.CutPrefix(k, "told:"); ok {
			d, role, _ := strings.Cut(ref, "/")
			n, revision, _ := strings.Cut(v, "@")
			if c.Set == nil {
				c.Set = map[cluster.RoleRef]cluster.RoleCount{}
			}
			ref := cluster.RoleRef{Deployment: d, Role: jobspecs.RoleKind(role)}
			c.Set[ref] = cluster.RoleCount{
				Role: ref, N: must(strconv.Atoi(n))(l.t), Revision: must(strconv.Atoi(revision))(l.t), Version: uint64(l.int("version", 1)),
				ChangedBy: l.set["who"], ChangedAt: l.time("when"), Own: l.has("own"),
				Rollout: l.set["rollout"], Unplaced: l.int("unplaced", 0), Why: l.set["unplaced-why"],
			}
		} else if n, err := strconv.Atoi(v); err == nil {
			node := cluster.Node{Name: k, Up: !l.has("down:" + k)}
			for i := range n {
				node.GPUs = append(node.GPUs, cluster.GPU{ID: fmt.Sprintf("%s-%d", k, i)})
			}
			c.Capacity.Nodes = append(c.Capacity.Nodes, node)
		}
	}
	return c
}

// launch ID DEPLOYMENT/ROLE/INDEX [intended|draining|ended] rev=1 job= run= on=NODE:GPU,GPU+NODE:... cluster=local
// created= admitted= ready= by= (drain) why= (drain) at= (end) reason= failed lines= replaces= after= limit= started= ends=
// ran=NODE,... blamed=NODE,... cause= left drained=
func (l line) launch() cluster.Launch {
	name := strings.Split(l.args[1], "/")
	x := cluster.Launch{
		ID: cluster.LaunchID(l.args[0]), Deployment: name[0], Role: jobspecs.RoleKind(name[1]), Index: must(strconv.Atoi(name[2]))(l.t),
		Revision: l.int("rev", 1), Cluster: jobspecs.LocalCluster, Nodes: l.int("nodes", 1), Phase: cluster.Submitted,
		CreatedAt: t0.Add(l.dur("created")), Job: l.set["job"], Run: l.set["run"],
		AdmittedAt: l.time("admitted"), ReadyAt: l.time("ready"), DrainBy: l.time("by"), DrainReason: l.set["why"],
		EndedAt: l.time("at"), EndReason: l.set["reason"], Failed: l.has("failed"),
		Replaces: cluster.LaunchID(l.set["replaces"]), After: l.set["after"], Limit: l.set["limit"], StartedAt: l.time("started"),
		EndsAt: l.time("ends"), Cause: cluster.EndCause(l.set["cause"]), Left: l.has("left"), DrainAt: l.time("drained"), Counted: l.has("counted"),
	}
	if l.has("ran") {
		x.Ran = strings.Split(l.set["ran"], ",")
	}
	if l.has("blamed") {
		x.Blamed = strings.Split(l.set["blamed"], ",")
	}
	if len(l.args) > 2 {
		x.Phase = cluster.LaunchPhase(l.args[2])
	}
	if c := l.set["cluster"]; c != "" {
		x.Cluster = jobspecs.ClusterKind(c)
	}
	if x.Run != "" {
		x.Epoch = 1
	}
	if l.has("lines") {
		x.LastLines = strings.Split(l.set["lines"], "|")
	}
	for p := range strings.SplitSeq(l.set["on"], "+") {
		if node, gpus, ok := strings.Cut(p, ":"); ok {
			x.Placement = append(x.Placement, cluster.Placement{Node: node, GPUs: strings.Split(gpus, ",")})
		}
	}
	return x
}

// job ID LAUNCH STATE started= ended= ends= node= exit= signal= reason= limit= cause= cluster=local of=DEPLOYMENT/ROLE/INDEX@REVISION
func (l line) job(w *world) {
	j := cluster.Job{
		ID: l.args[0], Launch: cluster.LaunchID(l.args[1]), State: cluster.JobState(l.args[2]), Reason: l.set["reason"],
		Started: l.time("started"), Ended: l.time("ended"), EndsAt: l.time("ends"),
		Limit: l.set["limit"], Cause: cluster.EndCause(l.set["cause"]),
	}
	if l.has("node") {
		j.Nodes = []string{l.set["node"]}
	}
	if l.has("exit") || l.has("signal") {
		j.Exit = &cluster.Exit{Code: l.int("exit", 0), Signal: l.int("signal", 0)}
	}
	if of := strings.FieldsFunc(l.set["of"], func(r rune) bool { return r == '/' || r == '@' }); len(of) == 4 {
		j.Role = cluster.RoleRef{Deployment: of[0], Role: jobspecs.RoleKind(of[1])}
		j.Index, j.Revision = must(strconv.Atoi(of[2]))(l.t), must(strconv.Atoi(of[3]))(l.t)
	}
	kind := jobspecs.LocalCluster
	if c := l.set["cluster"]; c != "" {
		kind = jobspecs.ClusterKind(c)
	}
	c := w.seen.Clusters[kind]
	c.Jobs = append(c.Jobs, j)
	w.seen.Clusters[kind] = c
}

// agent LAUNCH PHASE seen=0s since= node= progress= (the engine's) ready not-ready="why" lines= message= disconnected ends= open= (requests)
func (l line) agent(f *fleet.Fleet, launches []cluster.Launch) {
	id := cluster.LaunchID(l.args[0])
	run := ""
	for _, x := range launches {
		if x.ID == id {
			run = x.Run
		}
	}
	h := &apiv1.Health{Phase: apiv1.Phase(apiv1.Phase_value["PHASE_"+strings.ToUpper(l.args[1])]), EngineStarts: 1, Message: l.set["message"]}
	if l.has("lines") {
		h.LastLines = strings.Split(l.set["lines"], "|")
	}
	if l.has("progress") {
		h.Loading = &apiv1.Progress{AdvancedAt: timestamppb.New(l.time("progress"))}
	}
	who := &apiv1.Identity{Launch: string(id), Run: run, Epoch: 1, Node: l.set["node"], Address: "h:1"}
	if l.has("ends") {
		who.EndsAt = timestamppb.New(l.time("ends"))
	}
	state := func(seq uint64) *apiv1.ReportRequest {
		return &apiv1.ReportRequest{Seq: seq, Body: &apiv1.ReportRequest_Full{Full: &apiv1.RunState{
			Identity: who, Health: h, Load: &apiv1.EngineLoad{OpenRequests: uint32(l.int("open", 0))},
		}}}
	}
	f.Admit(id, run, 1, 1)
	if !l.has("disconnected") {
		f.Connected(id, run, 0)
	}
	for i, at := range []time.Duration{l.dur("since"), l.dur("seen")} {
		if _, err := f.Apply(id, run, 1, 0, state(uint64(i+1)), t0.Add(at)); err != nil {
			l.t.Fatal(err)
		}
	}
	if why, failing := l.set["not-ready"]; failing {
		f.SetReady(id, run, 1, t0, errors.New(why))
	} else if l.has("ready") {
		f.SetReady(id, run, 1, t0, nil)
	}
}

// show writes an action as a case does.
func show(a Action) string {
	var b strings.Builder
	b.WriteString(string(a.Verb))
	if a.Cause != "" {
		fmt.Fprintf(&b, "(%s)", a.Cause)
	}
	for _, s := range []string{a.Deployment, a.Replica()} {
		if s != "" {
			b.WriteString(" " + s)
		}
	}
	if a.Replica() == "" && a.Role != "" {
		b.WriteString(" " + string(a.Role))
	}
	if a.Launch != "" {
		b.WriteString(" launch " + string(a.Launch))
	}
	if a.Job != "" {
		b.WriteString(" job " + a.Job)
	}
	if a.Count > 0 || a.Verb == SetCount || a.Verb == Follow {
		fmt.Fprintf(&b, " x%d", a.Count)
	}
	switch a.Verb {
	case Start:
		fmt.Fprintf(&b, " revision %d", a.New.Revision)
		for _, p := range a.New.Placement {
			fmt.Fprintf(&b, " on %s%v", p.Node, p.GPUs)
		}
		for _, x := range [][2]string{{"replaces", string(a.New.Replaces)}, {"after job", a.New.After}, {"not on", strings.Join(a.New.Exclude, ",")}} {
			if x[1] != "" {
				b.WriteString(" " + x[0] + " " + x[1])
			}
		}
	case Rollback:
		fmt.Fprintf(&b, " from %d to %d", a.From, a.Revision)
	case Drain:
		fmt.Fprintf(&b, " by %s", a.By.Format(time.TimeOnly))
	case End:
		if a.Failed {
			b.WriteString(" failed")
		}
		if said := []cluster.EndCause{cluster.EndedAsked, cluster.EndedFailed, cluster.EndedLost}; !slices.Contains(said, a.Ended) {
			fmt.Fprintf(&b, " %s", a.Ended)
		}
		if len(a.Blamed) > 0 {
			fmt.Fprintf(&b, " blames %v", a.Blamed)
		}
		if len(a.LastLines) > 0 {
			fmt.Fprintf(&b, " %q", a.LastLines)
		}
	}
	if !a.Until.IsZero() {
		fmt.Fprintf(&b, " until %s", a.Until.Format(time.TimeOnly))
	}
	return b.String() + "\n    " + a.Reason
}
