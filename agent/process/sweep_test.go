package process

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// helpAgent plays an agent that starts a tree and is then killed.
func helpAgent() error {
	_, err := Start(Spec{
		Argv: []string{"sh", "-c", `(setsid sh -c '(setsid sh -c "$BE" sh $1 &) ; eval "$BE"' sh $1 &) ; ` + be, "sh", os.Getenv("DIR")},
		Env:  append(slices.Clone(nestEnv), path),
		Mark: Mark{Launch: LaunchToken(os.Getenv(EnvLaunch)), Run: os.Getenv(EnvRun), Rank: "0"},
	})
	if err != nil {
		return err
	}
	select {}
}

func TestNothingSurvivesAKilledAgent(t *testing.T) {
	t.Parallel()
	mark, dir := newMark(), t.TempDir()
	agent := exec.Command(os.Args[0])
	agent.Stderr = os.Stderr
	agent.Env = append(mark.Environ(), path, envHelper+"=agent", "DIR="+dir)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = agent.Process.Kill(); _, _ = Sweep(context.Background(), Leftovers{Launch: mark.Launch}) })
	tree := pids(t, dir, 3)
	first := slices.IndexFunc(tree, func(p Proc) bool { return p.PPID == agent.Process.Pid && p.SID == p.PID })
	bystander := sleeper(t, newMark().Environ(), nil)
	if first < 0 {
		t.Fatalf("none of %v is the agent's first process", tree)
	}

	_ = agent.Process.Kill()
	_ = agent.Wait()
	eventually(t, "the first process dies with the agent", func() bool { return !runs(tree[first]) })
	killed, err := Sweep(within(t), Leftovers{Launch: mark.Launch, ExceptRun: "the next run"})
	if err != nil {
		t.Fatal(err)
	}
	if len(killed) < 2 {
		t.Errorf("swept %v, want at least the two that the signal misses", killed)
	}
	for _, k := range killed {
		if k.Mark != mark {
			t.Errorf("swept %v with mark %v, want %v", k.Proc, k.Mark, mark)
		}
	}
	wantGone(t, tree)
	if !runs(bystander) {
		t.Error("a process of another launch was killed")
	}
	if again, err := Find(Leftovers{Launch: mark.Launch}); err != nil || len(again) != 0 {
		t.Errorf("left: %v, %v", again, err)
	}
}

// sleeper starts a process that is of no tree, as another agent or user would.
func sleeper(t *testing.T, env []string, attr *syscall.SysProcAttr) Proc {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.Env, cmd.SysProcAttr = append(env, path), attr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	p, err := readStat(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSweepKillsWhatItsSelectionNames(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		sweep func(l LaunchToken) Leftovers
		want  string // those that die
	}{
		"launch":         {func(l LaunchToken) Leftovers { return Leftovers{Launch: l} }, "old/ old/0 new/ new/0 new/1"},
		"older runs":     {func(l LaunchToken) Leftovers { return Leftovers{Launch: l, ExceptRun: "new"} }, "old/ old/0"},
		"own rank":       {func(l LaunchToken) Leftovers { return Leftovers{Launch: l, Run: "new", Rank: "1"} }, "new/1"},
		"rank of any":    {func(l LaunchToken) Leftovers { return Leftovers{Launch: l, Rank: "0"} }, "old/0 new/0"},
		"another launch": {func(l LaunchToken) Leftovers { return Leftovers{Launch: l + "x"} }, ""},
		"a beginning":    {func(l LaunchToken) Leftovers { return Leftovers{Launch: l[:len(l)-1]} }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			launch := newMark().Launch
			procs := map[string]Proc{}
			for _, run := range []string{"old/", "old/0", "new/", "new/0", "new/1"} {
				run, rank, _ := strings.Cut(run, "/")
				procs[run+"/"+rank] = sleeper(t, Mark{Launch: launch, Run: run, Rank: rank}.Environ(), nil)
			}
			killed, err := Sweep(within(t), test.sweep(launch))
			if err != nil {
				t.Fatal(err)
			}
			want := strings.Fields(test.want)
			if len(killed) != len(want) {
				t.Errorf("killed %v, want %v", killed, want)
			}
			for key, p := range procs {
				if runs(p) == slices.Contains(want, key) {
					t.Errorf("%s runs: %v, want to die %v", key, runs(p), want)
				}
			}
		})
	}
}

func TestSweepLeavesOwnTreesAlone(t *testing.T) {
	t.Parallel()
	mark := newMark()
	p, _ := start(t, Spec{Mark: mark}, `sleep 1000`)
	killed, err := Sweep(within(t), Leftovers{Launch: mark.Launch})
	if err != nil || len(killed) != 0 {
		t.Errorf("killed %v, %v, want nothing", killed, err)
	}
	select {
	case <-p.Ended():
		t.Error("a tree of this process was killed")
	default:
	}
}

func TestSweepLeavesOtherUsersAlone(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root to run a process as another user")
	}
	const nobody = 65534
	mark := newMark()
	p := sleeper(t, mark.Environ(), &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}})
	killed, err := Sweep(within(t), Leftovers{Launch: mark.Launch})
	if err != nil || len(killed) != 0 || !runs(p) {
		t.Errorf("killed %v, %v, other user's process runs: %v", killed, err, runs(p))
	}
}

func TestSweepNeedsAToken(t *testing.T) {
	t.Parallel()
	if _, err := Sweep(within(t), Leftovers{Run: "r"}); err == nil {
		t.Error("no error")
	}
}

func TestSweepSaysWhatIsStillAlive(t *testing.T) {
	t.Parallel()
	mark := newMark()
	sleeper(t, mark.Environ(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	killed, err := Sweep(ctx, Leftovers{Launch: mark.Launch})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "still alive: ") || len(killed) != 1 {
		t.Errorf("killed %v, %v", killed, err)
	}
}

// helpSweeper sweeps its own launch while it, its parent and its sibling carry the mark.
func helpSweeper() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	killed, err := Sweep(ctx, Leftovers{Launch: LaunchToken(os.Getenv(EnvLaunch))})
	if err != nil {
		return err
	}
	var names []string
	for _, k := range killed {
		names = append(names, k.Command)
	}
	return json.NewEncoder(os.Stdout).Encode(names)
}

func TestSweeperSparesItselfAndItsAncestors(t *testing.T) {
	t.Parallel()
	script := exec.Command("sh", "-c", `sleep 1000 & "$0"; echo parent alive; wait; echo`, os.Args[0])
	script.Env = append(newMark().Environ(), path, envHelper+"=sweeper")
	script.Stderr = os.Stderr
	out, err := script.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := script.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(patience, func() { _ = script.Process.Kill() })
	defer timer.Stop()
	lines := bufio.NewScanner(out)
	for _, want := range []string{`["sleep"]`, "parent alive"} {
		if !lines.Scan() || lines.Text() != want {
			t.Errorf("got %q, want %q", lines.Text(), want)
		}
	}
	if err := script.Wait(); err != nil {
		t.Error(fmt.Errorf("the sweeper's parent: %w", err))
	}
}
