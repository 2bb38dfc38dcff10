package agent

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// startGang starts the agents of a run over two nodes.
func startGang(t *testing.T) (w *world, ranks [2]*agentUnderTest) {
	t.Helper()
	w = newWorld(t, "restarts: 3")
	w.controller.yaml = strings.Replace(w.controller.yaml, "replicas: 1", "replicas: 1, nodes: 2", 1)
	for rank := range ranks {
		ranks[rank] = w.start(func(o *Options) {
			o.Rank, o.Nodes = rank, 2
			o.Node = "node" + strconv.Itoa(rank)
		})
	}
	return w, ranks
}

func TestGangServes(t *testing.T) {
	t.Parallel()
	w, ranks := startGang(t)
	for _, a := range ranks {
		a.reach(started)
	}
	var meet string
	for _, p := range w.controller.state(0).GetPorts().GetPorts() {
		if p.GetPurpose() == "ranks of the engine" && p.GetProtection() == "none" {
			_, meet, _ = strings.Cut(p.GetAddress(), ":")
		}
	}
	for rank, a := range ranks {
		if args := commandOf(t, w.launch, rank); meet == "" || !strings.Contains(args, "--master-port\x00"+meet) {
			t.Errorf("rank %d: the engines meet at %q; %q", rank, meet, args)
		}
		if head := w.controller.state(rank).GetIdentity().GetHeadAddress(); (head != "") != (rank == 0) {
			t.Errorf("rank %d: head address %q", rank, head)
		}
		a.Drain("done", 0)
	}
	for rank, a := range ranks {
		if err := a.wait(); err != nil {
			t.Errorf("rank %d: %v", rank, err)
		}
		if path := w.controller.path(rank); path != "joining loading started draining stopped" && rank == 0 {
			t.Errorf("rank %d: %s", rank, path)
		}
	}
}

func TestLostRankEndsAllRanks(t *testing.T) {
	t.Parallel()
	for victim := range 2 {
		t.Run("rank "+strconv.Itoa(victim), func(t *testing.T) {
			t.Parallel()
			w, ranks := startGang(t)
			for _, a := range ranks {
				a.reach(started)
			}
			eventually(t, "the victim has said something", func() bool {
				text, _ := os.ReadFile(filepath.Join(w.controller.logDir, "engine-"+strconv.Itoa(victim)+".log"))
				return bytes.Contains(text, []byte("--node-rank"))
			})
			if err := syscall.Kill(pidOfRank(t, w.launch, victim), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			for rank, a := range ranks {
				if err := a.wait(); !errors.Is(err, ErrFailed) {
					t.Errorf("rank %d: %v", rank, err)
				}
				h := w.controller.state(rank).GetHealth()
				lines := strings.Join(h.GetLastLines(), "\n")
				if h.GetPhase() != apiv1.Phase_PHASE_FAILED || !strings.Contains(lines, "--node-rank "+strconv.Itoa(victim)) {
					t.Errorf("rank %d: %s %q: wanted the last lines of rank %d, got %q", rank, h.GetPhase(), h.GetMessage(), victim, lines)
				}
				if h.GetEngineStarts() != 1 {
					t.Errorf("rank %d: %d engine starts: a gang ends as a whole", rank, h.GetEngineStarts())
				}
			}
		})
	}
}

func TestOneNodeThatIsToldToEndEndsAll(t *testing.T) {
	t.Parallel()
	_, ranks := startGang(t)
	for _, a := range ranks {
		a.reach(started)
	}
	ranks[1].Drain("this node goes down", patience)
	for rank, a := range ranks {
		if err := a.wait(); err != nil {
			t.Errorf("rank %d: %v", rank, err)
		}
	}
}

func TestRankThatNeverComes(t *testing.T) {
	t.Parallel()
	for rank, want := range []string{"ranks [1] did not come", "rank 0 was not found"} {
		w := newWorld(t, "")
		w.controller.yaml = strings.Replace(w.controller.yaml, "replicas: 1", "replicas: 1, nodes: 2", 1)
		err := w.start(func(o *Options) {
			o.Rank, o.Nodes, o.Limits.Barrier = rank, 2, 200*time.Millisecond
		}).wait()
		if !errors.Is(err, errLostRank) || !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), want) {
			t.Errorf("rank %d alone: %v", rank, err)
		}
	}
}

func TestSilenceOfARank(t *testing.T) {
	t.Parallel()
	l := newLeader(3)
	l.members[1] = member{word: word{Rank: 1, Node: "a"}, at: noon}
	l.members[2] = member{word: word{Rank: 2, Node: "b"}, at: noon.Add(-29 * time.Second)}
	if err := l.trouble(noon, 30*time.Second); err != nil {
		t.Errorf("in time: %v", err)
	}
	if err := l.trouble(noon.Add(2*time.Second), 30*time.Second); err == nil || !strings.Contains(err.Error(), "rank 2 on b") {
		t.Errorf("late: %v", err)
	}
	f := newFollower(nil, "", time.Second)
	if err := f.trouble(noon, time.Second); err != nil {
		t.Errorf("rank 0 that never spoke is the barrier's to judge: %v", err)
	}
	f.heard, f.at = word{Node: "a"}, noon
	if err := f.trouble(noon.Add(31*time.Second), 30*time.Second); !errors.Is(err, errLostRank) {
		t.Errorf("rank 0 is silent: %v", err)
	}
	f.heard.Phase, f.heard.Lines = apiv1.Phase_PHASE_FAILED, []string{"boom"}
	var failed *rankError
	if err := f.trouble(noon, 30*time.Second); !errors.As(err, &failed) || failed.Lines[0] != "boom" {
		t.Errorf("rank 0 failed: %v", err)
	}
}

func pidOfRank(t *testing.T, launch string, rank int) int {
	t.Helper()
	mark := []string{"PENSTOCK_LAUNCH=" + launch, "PENSTOCK_RANK=" + strconv.Itoa(rank)}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		env, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err == nil && hasAll(bytes.Split(env, []byte{0}), mark) {
			pid, _ := strconv.Atoi(e.Name())
			return pid
		}
	}
	t.Fatalf("no engine of launch %s, rank %d", launch, rank)
	return 0
}

func hasAll(entries [][]byte, want []string) bool {
	found := 0
	for _, w := range want {
		for _, e := range entries {
			if string(e) == w {
				found++
				break
			}
		}
	}
	return found == len(want)
}

func commandOf(t *testing.T, launch string, rank int) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pidOfRank(t, launch, rank)), "cmdline"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
