package agent

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

func TestKilledEngineIsStartedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "restarts: 1")
	a := w.start(nil).reach(started)
	c := clientOf(t, w.ca, asGateway)
	resp, err := a.ask(c, `{"stream":true,"forever":true}`)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	killRank(t, w.launch, 0)
	if body, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("a stream of a killed engine looks complete: %d bytes", len(body))
	}
	eventually(t, "it serves again", func() bool {
		h := w.controller.state(0).GetHealth()
		return h.GetPhase() == started && h.GetEngineStarts() == 2
	})
	if h := w.controller.state(0).GetHealth(); h.GetFailures() != 1 || h.GetExit() != "signal killed" {
		t.Errorf("health %v", h)
	}
	resp, err = a.ask(c, `{}`)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("after the restart: %s", resp.Status)
	}
	a.Drain("done", 0)
	if err := a.wait(); err != nil {
		t.Error(err)
	}
}

func TestCrashLoopFailsWithTheLastLines(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "restarts: 1")
	w.steer("crash", true)
	a := w.start(nil)
	if err := a.wait(); !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "exit 3") {
		t.Errorf("Run: %v", err)
	}
	h := w.controller.state(0).GetHealth()
	if h.GetPhase() != apiv1.Phase_PHASE_FAILED || h.GetEngineStarts() != 2 || h.GetFailures() != 2 || h.GetExit() != "exit 3" {
		t.Errorf("health %v", h)
	}
	if n := len(h.GetLastLines()); n != lastLines || h.GetLastLines()[n-1] != "CUDA error: out of memory" {
		t.Errorf("last lines %q", h.GetLastLines())
	}
	if path := w.controller.path(0); !strings.HasSuffix(path, "loading joining loading failed") {
		t.Errorf("phases: %s", path)
	}
}

func TestCrashOnceRecovers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "restarts: 1")
	w.steer("crashonce", true)
	w.start(nil).reach(started)
	if h := w.controller.state(0).GetHealth(); h.GetEngineStarts() != 2 || h.GetRetryAt() != nil || len(h.GetLastLines()) == 0 {
		t.Errorf("health %v", h)
	}
}

func TestPortThatIsTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "restarts: 0")
	w.steer("porttaken", true)
	w.start(nil).reach(started)
	if n := w.controller.state(0).GetHealth().GetEngineStarts(); n != 2 {
		t.Errorf("%d engine starts", n)
	}
}

func TestHangingEngineIsKilled(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"hang", "notoken"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "restarts: 0")
			a := w.start(func(o *Options) {
				o.Limits.Liveness = Liveness{
					Every: 20 * time.Millisecond, Deadline: 300 * time.Millisecond, Quiet: 100 * time.Millisecond, TokenDeadline: 300 * time.Millisecond,
				}
			}).reach(started)
			w.steer(how, true)
			if err := a.wait(); !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "does not answer") {
				t.Errorf("Run: %v", err)
			}
		})
	}
}

func TestLoadingFailsForLackOfProgress(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "restarts: 0, loadingStall: 1s")
	w.steer("loading", true)
	a := w.start(nil)
	if err := a.wait(); !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "no progress for 1s") {
		t.Errorf("Run: %v", err)
	}
	if h := w.controller.state(0).GetHealth(); h.GetExit() == "" {
		t.Errorf("health %v", h)
	}
}

func TestLoadingWithProgressMayTakeLong(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "restarts: 0, loadingStall: 2s")
	w.steer("loading", true)
	w.steer("progress", true)
	a := w.start(nil).reach(apiv1.Phase_PHASE_LOADING)
	begun := time.Now()
	for time.Since(begun) < 4*time.Second { // two times the stall
		if closed(a.done) {
			t.Fatalf("ended after %s: %v", time.Since(begun), a.err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if h := w.controller.state(0).GetHealth(); h.GetLoading().GetAdvancedAt() == nil || !strings.Contains(h.GetMessage(), "503") {
		t.Errorf("health %v", h)
	}
	w.steer("loading", false)
	a.reach(started)
	if h := w.controller.state(0).GetHealth(); h.GetLoading() != nil {
		t.Errorf("still loading: %v", h)
	}
}

func TestEngineThatServesAnotherModel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "restarts: 0, loadingStall: 1s")
	w.controller.yaml = strings.Replace(w.controller.yaml, "model: {id: test-model}", "model: {id: test-model, servedName: other}", 1)
	if err := w.start(nil).wait(); !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), `serves ["test-model"] and not "other"`) {
		t.Errorf("Run: %v", err)
	}
}

func TestProgramThatIsNotThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "restarts: 0")
	self, _ := os.Executable()
	w.controller.yaml = strings.Replace(w.controller.yaml, self, "/nonexistent/engine", 1)
	if err := w.start(nil).wait(); !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "/nonexistent/engine") {
		t.Errorf("Run: %v", err)
	}
}

func TestEngineRunsOnWithoutItsLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.controller.logDir = filepath.Join(w.endpoint, "under-a-file") // cannot be made
	a := w.start(nil).reach(started)
	a.Drain("done", 0)
	if err := a.wait(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if !strings.Contains(a.log.String(), "engine output is not kept") {
		t.Error("nobody is told that the output is lost")
	}
}

func TestEngineRunsOnBesideASquattedLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	if err := os.MkdirAll(w.controller.logDir, 0o700); err != nil {
		t.Fatal(err)
	}
	// Somebody has put a link where the log goes; /dev/full would take nothing either.
	if err := os.Symlink("/dev/full", filepath.Join(w.controller.logDir, "engine-0.log")); err != nil {
		t.Fatal(err)
	}
	w.start(nil).reach(started)
}

func TestEngineOverTCP(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.controller.yaml = strings.Replace(w.controller.yaml, "kind: sim", "kind: sglang", 1)
	a := w.start(nil).reach(started)
	i := slices.IndexFunc(w.controller.state(0).GetPorts().GetPorts(), func(p *apiv1.Port) bool { return p.GetPurpose() == "engine" })
	if i < 0 {
		t.Fatalf("ports %v", w.controller.state(0).GetPorts())
	}
	if p := w.controller.state(0).GetPorts().GetPorts()[i]; !strings.HasPrefix(p.GetAddress(), "127.0.0.1:") || p.GetProtection() == "directory" {
		t.Errorf("port %v", p)
	}
	resp, err := a.ask(clientOf(t, w.ca, asGateway), `{}`)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("%s", resp.Status)
	}
}
