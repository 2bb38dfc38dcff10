package agent

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

const started = apiv1.Phase_PHASE_STARTED

func TestServesAndDrains(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	a := w.start(nil).reach(started)

	s := w.controller.state(0)
	id := s.GetIdentity()
	if id.GetLaunch() != w.launch || id.GetRun() != "r1" || id.GetEpoch() != 7 || id.GetEngineKind() != "sim" || id.GetNode() != "n1" {
		t.Errorf("identity %v", id)
	}
	if s.GetHealth().GetEngineStarts() != 1 || s.GetHealth().GetFailures() != 0 || s.GetGpus().GetError() != "no GPU here" {
		t.Errorf("health %v, gpus %v", s.GetHealth(), s.GetGpus())
	}
	eventually(t, "load and KV use are reported", func() bool {
		s := w.controller.state(0)
		return s.GetLoad().Running != nil && s.GetKv().GetUsage() == 0.25
	})
	protection := map[string]string{}
	for _, p := range s.GetPorts().GetPorts() {
		protection[p.GetPurpose()] = p.GetProtection()
	}
	if protection["requests"] != "mtls" || protection["engine"] != "directory" {
		t.Errorf("ports %v", s.GetPorts())
	}

	c := clientOf(t, w.ca, asGateway)
	resp, err := a.ask(c, `{"model":"test-model","stream":true,"max_tokens":20}`)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	w.controller.command(&apiv1.Command{Id: "c1", Term: 3, Verb: &apiv1.Command_Drain{Drain: &apiv1.Drain{
		Deadline: durationpb.New(patience), Reason: "handover",
	}}})
	eventually(t, "draining", func() bool { return w.controller.phase(0) == apiv1.Phase_PHASE_DRAINING })
	if late, err := a.ask(c, `{}`); err == nil {
		late.Body.Close()
		if late.StatusCode != 503 || late.Header.Get("Penstock-Reason") != "draining" {
			t.Errorf("a request to a draining replica: %d %q", late.StatusCode, late.Header.Get("Penstock-Reason"))
		}
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || !strings.HasSuffix(string(body), "data: t19\n\ndata: [DONE]\n\n") {
		t.Errorf("the open stream must end in its own time: %q, %v", body, err)
	}
	if err := a.wait(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if path := w.controller.path(0); path != "joining loading started draining stopped" {
		t.Errorf("phases: %s", path)
	}
	if left, _ := os.ReadDir(w.runtime); len(left) != 0 {
		t.Errorf("%v is left in the runtime folder", left)
	}
	output, err := os.ReadFile(filepath.Join(w.controller.logDir, "engine-0.log"))
	if err != nil || !strings.Contains(string(output), "engine begins") || !strings.Contains(string(output), "told to end") {
		t.Errorf("engine log %q, %v", output, err)
	}
}

func TestDrainCutsWhatTakesTooLong(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	a := w.start(nil).reach(started)
	resp, err := a.ask(clientOf(t, w.ca, asGateway), `{"stream":true,"forever":true}`)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	a.Drain("test", 400*time.Millisecond)
	if body, err := io.ReadAll(resp.Body); err == nil || !strings.HasPrefix(string(body), "data: t0\n\n") {
		t.Errorf("the gateway must see the cut: %d bytes, %v", len(body), err)
	}
	if err := a.wait(); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestEngineSeesNoSecretAndItsMark(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.start(nil).reach(started)
	var socket string
	for _, p := range w.controller.state(0).GetPorts().GetPorts() {
		if rest, ok := strings.CutPrefix(p.GetAddress(), "unix:"); ok {
			socket = rest
		}
	}
	info, err := os.Stat(filepath.Dir(socket))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder of the socket: %v, %v", info.Mode(), err)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET /environ HTTP/1.0\r\n\r\n")
	answer, _ := io.ReadAll(conn)
	_, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	var env []string
	if err := json.Unmarshal([]byte(body), &env); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"PENSTOCK_LAUNCH=" + w.launch, "PENSTOCK_RUN=r1", "PENSTOCK_RANK=0"} {
		if !slices.Contains(env, want) {
			t.Errorf("no %s in the engine's environment", want)
		}
	}
	if strings.Contains(body, "hf_secret") || strings.Contains(body, "t0ken") {
		t.Error("a secret is in the engine's environment")
	}
}

func TestRefusedRunEnds(t *testing.T) {
	t.Parallel()
	for _, code := range []connect.Code{connect.CodeFailedPrecondition, connect.CodeUnauthenticated} {
		w := newWorld(t, "")
		w.controller.refuse = connect.NewError(code, errors.New("another run is admitted"))
		if err := w.start(nil).wait(); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "another run is admitted") {
			t.Errorf("%s: %v", code, err)
		}
	}
}

func TestJoinWaitsForAController(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.controller.refuse = connect.NewError(connect.CodeUnavailable, errors.New("starting"))
	a := w.start(nil)
	eventually(t, "it asks again", func() bool { w.controller.mu.Lock(); defer w.controller.mu.Unlock(); return w.controller.joins > 1 })
	w.controller.set(func() { w.controller.refuse = nil })
	a.reach(started)
}

func TestDrainBeforeAnythingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.controller.refuse = connect.NewError(connect.CodeUnavailable, errors.New("starting"))
	a := w.start(nil)
	a.Drain("never mind", time.Second)
	if err := a.wait(); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestFencedRunEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	a := w.start(nil).reach(started)
	w.controller.set(func() {
		w.controller.refuse = connect.NewError(connect.CodeFailedPrecondition, errors.New("a newer run is admitted"))
	})
	w.controller.hangUp()
	if err := a.wait(); !errors.Is(err, ErrRefused) {
		t.Errorf("Run: %v", err)
	}
}

func TestControllerMoves(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	a := w.start(nil).reach(started)
	old := *w.controller.state(0).GetIdentity()
	w.controller.set(func() {
		clear(w.controller.known)
		clear(w.controller.seq)
		w.controller.term++
	})
	w.controller.serve(t, "127.0.0.1:0") // another port; the old one goes on but hangs up
	w.publish(2)
	w.controller.hangUp()
	a.reach(started)
	if now := w.controller.state(0).GetIdentity(); now.GetAddress() != old.GetAddress() || w.controller.joins != 1 {
		t.Errorf("after the move: %v, %d joins", now, w.controller.joins)
	}
	a.Drain("done", 0)
	if err := a.wait(); err != nil {
		t.Error(err)
	}
}

func TestLostMessagesAreSentAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	a := w.start(nil).reach(started)
	w.controller.set(func() { w.controller.lose = 3 })
	eventually(t, "a range was asked for", func() bool { w.controller.mu.Lock(); defer w.controller.mu.Unlock(); return w.controller.resends > 0 })
	before := func() uint64 { w.controller.mu.Lock(); defer w.controller.mu.Unlock(); return w.controller.seq[0] }
	seq := before()
	eventually(t, "reports go on", func() bool { return before() > seq+5 })
	a.Drain("done", 0)
	if err := a.wait(); err != nil {
		t.Error(err)
	}
}

func TestCommandsOfOldControllersAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	a := w.start(nil).reach(started)
	stop := func(id string, term uint64) {
		w.controller.command(&apiv1.Command{Id: id, Term: term, Verb: &apiv1.Command_Stop{Stop: &apiv1.Stop{Reason: "test"}}})
	}
	stop("old", 2)
	eventually(t, "the refusal is logged", func() bool { return strings.Contains(a.log.String(), "command refused") })
	if closed(a.done) {
		t.Fatal("an old controller's command was obeyed")
	}
	stop("new", 3)
	if err := a.wait(); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestOrphanEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.controller.orphan = 2 * time.Second
	a := w.start(func(o *Options) { o.Limits.Farewell = 100 * time.Millisecond }).reach(started)
	w.controller.set(func() { w.controller.silent = true })
	if err := a.wait(); !errors.Is(err, ErrOrphaned) {
		t.Errorf("Run: %v", err)
	}
}

func TestTimeLimitDrains(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "drainTimeout: 1s")
	a := w.start(func(o *Options) { o.EndsAt = time.Now().Add(14 * time.Second) })
	if err := a.wait(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if !strings.Contains(w.controller.state(0).GetHealth().GetMessage(), "time limit") {
		t.Errorf("health %v", w.controller.state(0).GetHealth())
	}
}

func TestRenewsItsCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.controller.ttl = 6 * time.Second // due after two
	w.start(nil).reach(started)
	eventually(t, "renewal", func() bool { w.controller.mu.Lock(); defer w.controller.mu.Unlock(); return w.controller.renewals > 0 })
}

func TestSweepEndsAnOlderRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	older, err := startMarked(w.launch, "r0")
	if err != nil {
		t.Fatal(err)
	}
	a := w.start(nil)
	state, err := older.Wait()
	if err != nil || state.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("older run's process: %v, %v", state, err)
	}
	a.reach(started)
}

// startMarked starts a process as an earlier agent of a launch would have left it.
func startMarked(launch, run string) (*os.Process, error) {
	return os.StartProcess("/bin/sleep", []string{"sleep", "600"}, &os.ProcAttr{
		Env: []string{"PENSTOCK_LAUNCH=" + launch, "PENSTOCK_RUN=" + run, "PENSTOCK_RANK=0"},
	})
}

func TestStopEndsTheWholeTree(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.steer("stubborn", true)
	a := w.start(nil).reach(started)
	text, err := os.ReadFile(filepath.Join(w.engine, "grandchild"))
	if err != nil {
		t.Fatal(err)
	}
	pid, _ := strconv.Atoi(string(text))
	a.Drain("test", 400*time.Millisecond) // the engine ignores SIGTERM
	if err := a.wait(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("grandchild %d: %v", pid, err)
	}
}

func TestNewNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	w := &world{t: t, ca: testCA(t), launch: newLaunch()}
	for name, change := range map[string]func(*Options){
		"run": func(o *Options) { o.Run = "" }, "rank": func(o *Options) { o.Rank = 1 },
		"runtime folder": func(o *Options) { o.RuntimeDir = "" }, "registry": func(o *Options) { o.Registry = nil },
	} {
		o := w.options()
		o.RuntimeDir = "/run"
		change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLongRuntimeFolder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	err := w.start(func(o *Options) { o.RuntimeDir = filepath.Join(shortDir(t), strings.Repeat("x", 100)) }).wait()
	if err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("Run: %v", err)
	}
}
