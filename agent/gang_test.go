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
	return w, w.startRanks()
}

func (w *world) startRanks() (ranks [2]*agentUnderTest) {
	w.controller.yaml = strings.Replace(w.controller.yaml, "replicas: 1", "replicas: 1, nodes: 2", 1)
	for rank := range ranks {
		ranks[rank] = w.start(func(o *Options) {
			o.Rank, o.Nodes = rank, 2
			o.Node = "node" + strconv.Itoa(rank)
		})
	}
	return ranks
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
		if got := portOf(commandOf(w.launch, rank)); meet == "" || got != meet {
			t.Errorf("rank %d: the engines meet at %q, and not at %q", rank, got, meet)
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

func TestGangMeetsElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.steer("porttaken", true)
	ranks := w.startRanks()
	for _, a := range ranks {
		a.reach(started)
	}
	eventually(t, "both ranks have started anew, on one port", func() bool {
		port := portOf(commandOf(w.launch, 0))
		return w.controller.state(0).GetHealth().GetEngineStarts() == 2 && port != "" && port == portOf(commandOf(w.launch, 1))
	})
}

// portOf is where an engine's command line says that the engines meet.
func portOf(cmdline string) string {
	_, rest, _ := strings.Cut(cmdline, "--master-port\x00")
	port, _, _ := strings.Cut(rest, "\x00")
	return port
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
			killRank(t, w.launch, victim)
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

// pidOfRank finds an engine by its mark; 0 = there is none.
func pidOfRank(launch string, rank int) int {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		env, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if hasEntry(env, "PENSTOCK_LAUNCH="+launch) && hasEntry(env, "PENSTOCK_RANK="+strconv.Itoa(rank)) {
			pid, _ := strconv.Atoi(e.Name())
			return pid
		}
	}
	return 0
}

func killRank(t *testing.T, launch string, rank int) {
	t.Helper()
	pid := pidOfRank(launch, rank)
	if pid == 0 {
		t.Fatalf("no engine of rank %d", rank)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func hasEntry(environ []byte, entry string) bool {
	return bytes.Contains(append([]byte{0}, environ...), []byte("\x00"+entry+"\x00"))
}

// commandOf is the command line of an engine; empty where there is none.
func commandOf(launch string, rank int) string {
	text, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pidOfRank(launch, rank)), "cmdline"))
	return string(text)
}
