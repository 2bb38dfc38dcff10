package attack

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/installation"
)

// squatArgs is a place that the victim is about to use.
type squatArgs struct{ How, Path, Target string }

// squatFolders: the attacker is there first, where the victim's runtime folder or state folder will be. The victim must
// refuse, say what it saw and what to do, and leave nothing at the other end of a link.
func squatFolders(t *testing.T, s *siege) {
	for _, how := range []string{
		"a folder for all", "a closed folder", "a link to a folder of the attacker's", "a link to a folder of the victim's", "a link to nothing", "a file", "a pipe",
	} {
		tmp := filepath.Join(s.world, "t")
		must(t, os.Mkdir(tmp, 0o700))
		must(t, os.Chmod(tmp, 0o777|os.ModeSticky))
		keep := filepath.Join(s.alice.home, "keep")
		must(t, os.Mkdir(keep, 0o700))
		must(t, os.Chown(keep, int(s.alice.uid), int(s.alice.gid)))
		runtime := filepath.Join(tmp, filepath.Base(s.runtimeDir(s.alice)))

		target := keep
		if strings.Contains(how, "attacker") {
			target = filepath.Join(s.mallory.home, "trap")
		}
		s.plant(t, squatArgs{how, runtime, target})
		s.refusesToServe(t, how+" as the runtime folder", runtime, "TMPDIR="+tmp)
		for _, dir := range []string{keep, filepath.Join(s.mallory.home, "trap")} {
			if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
				t.Errorf("HOLE: %s: something was made in %s: %v", how, dir, entries)
			}
		}
		must(t, os.RemoveAll(runtime))
		s.plant(t, squatArgs{how, filepath.Join(tmp, "state"), target})
		s.refusesToServe(t, how+" as the state folder", filepath.Join(tmp, "state"), "PENSTOCK_STATE_DIR="+filepath.Join(tmp, "state"))
		must(t, os.RemoveAll(tmp))
		must(t, os.RemoveAll(keep))
		must(t, os.RemoveAll(filepath.Join(s.mallory.home, "trap")))
	}
	s.squatParents(t)
}

// squatParents: the folder itself would be the victim's own, but it lies in one whose owner may move it.
func (s *siege) squatParents(t *testing.T) {
	t.Helper()
	for how, mode := range map[string]os.FileMode{"a folder for all, of the attacker's": 0o777, "a folder as /tmp, of the attacker's": 0o777 | os.ModeSticky} {
		trap := filepath.Join(s.mallory.home, "parent")
		must(t, os.Mkdir(trap, 0o700))
		must(t, os.Chown(trap, int(s.mallory.uid), int(s.mallory.gid)))
		must(t, os.Chmod(trap, mode))
		s.refusesToServe(t, how+" around the runtime folder", trap, "PENSTOCK_RUNTIME_DIR="+filepath.Join(trap, "run"))
		s.refusesToServe(t, how+" around the state folder", trap, "PENSTOCK_STATE_DIR="+filepath.Join(trap, "state"))
		must(t, os.RemoveAll(trap))
	}
}

func (s *siege) plant(t *testing.T, args squatArgs) {
	t.Helper()
	for _, o := range s.as(t, s.mallory, "plant", args) {
		if len(o.Worked) == 0 {
			t.Fatalf("the attacker could not plant anything: %s", o)
		}
	}
}

// refusesToServe starts the victim's controller in a trap, with a state folder of its own.
func (s *siege) refusesToServe(t *testing.T, what, path, env string) {
	t.Helper()
	s.tried++
	in := *s.victim
	in.Dir = filepath.Join(s.alice.home, "other")
	must(t, os.MkdirAll(in.Dir, 0o755))
	must(t, os.Chown(in.Dir, int(s.alice.uid), int(s.alice.gid)))
	defer os.RemoveAll(in.Dir)
	in.Extra = append(append([]string(nil), in.Extra...), env)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	out, err := in.Command(ctx, "serve").CombinedOutput()
	text := string(out)
	exit, ended := err.(*exec.ExitError)
	switch {
	case !ended || exit.ExitCode() != 1:
		t.Errorf("HOLE: %s: serve did not refuse: %v\n%s", what, err, text)
	case !strings.Contains(text, path):
		t.Errorf("%s: the refusal does not name %s: %s", what, path, text)
	case !containsAny(text, "choose another", "name the real folder", "move it away", "chmod", "remove it", "--runtime-dir"):
		t.Errorf("%s: the refusal does not say what to do: %s", what, text)
	default:
		t.Logf("tried as the attacker: %s: %s", what, strings.TrimSpace(text))
	}
}

func containsAny(text string, words ...string) bool {
	for _, w := range words {
		if strings.Contains(text, w) {
			return true
		}
	}
	return false
}

func init() {
	tricks["plant"] = plant
	tricks["listen"] = listen
}

// plant puts something where the victim wants to have its own.
func plant(in []byte, n *notes) error {
	var args squatArgs
	if err := json.Unmarshal(in, &args); err != nil {
		return err
	}
	var err error
	switch args.How {
	case "a folder for all":
		if err = os.Mkdir(args.Path, 0o777); err == nil {
			err = os.Chmod(args.Path, 0o777)
		}
	case "a closed folder":
		err = os.Mkdir(args.Path, 0o700)
	case "a link to a folder of the attacker's":
		_ = os.Mkdir(args.Target, 0o777)
		if err = os.Chmod(args.Target, 0o777); err == nil {
			err = os.Symlink(args.Target, args.Path)
		}
	case "a link to a folder of the victim's":
		err = os.Symlink(args.Target, args.Path)
	case "a link to nothing":
		err = os.Symlink(filepath.Join(args.Target, "nothing"), args.Path)
	case "a file":
		err = os.WriteFile(args.Path, []byte("mine"), 0o666)
	case "a pipe":
		err = syscall.Mkfifo(args.Path, 0o666)
	case "settings":
		err = os.WriteFile(args.Path, []byte(args.Target), 0o644)
	}
	n.try("plant "+args.How, args.Path, err)
	return nil
}

// squatSettings: a settings file of the attacker's lies in a shared folder in which the victim works. Settings say where
// the state is and who may connect, so they must be the victim's own.
func squatSettings(t *testing.T, s *siege) {
	shared := filepath.Join(s.world, "shared")
	must(t, os.Mkdir(shared, 0o700))
	must(t, os.Chmod(shared, 0o777|os.ModeSticky))
	file := filepath.Join(shared, ".penstock.yaml")
	for _, text := range []string{
		"stateDir: " + s.rival.State() + "\n", "gateway: {listen: \"0.0.0.0:0\"}\n", "log: {level: error}\n",
	} {
		s.tried++
		s.plant(t, squatArgs{"settings", file, text})
		out, err := s.runIn(t, shared, "config", "view", "--origin")
		if err == nil || !strings.Contains(out, file) {
			t.Errorf("HOLE: the attacker's %s is taken: %s", strings.TrimSpace(text), out)
		} else {
			t.Logf("tried as the attacker: plant %q in a shared folder: %s", text, strings.TrimSpace(out))
		}
		must(t, os.Remove(file))
	}
	must(t, os.WriteFile(file, []byte("log: {level: error}\n"), 0o644))
	must(t, os.Chown(file, int(s.alice.uid), int(s.alice.gid)))
	if out, err := s.runIn(t, shared, "config", "view", "--origin"); err != nil || !strings.Contains(out, file) {
		t.Errorf("control: the victim's own settings are not taken: %v %s", err, out)
	}
}

// runIn runs a command of the victim's in a folder.
func (s *siege) runIn(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	cmd := s.victim.Command(ctx, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// squatPort: while the victim's controller is away, the attacker listens at the gateway's port, to get the keys of those
// who come. The victim cannot have that port back; it must say so loudly, and send its own clients elsewhere.
func squatPort(t *testing.T, s *siege) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*trickPatience)
	defer cancel()
	old := s.client.URL
	s.restart(ctx, t)
	if got := s.victim.MustRun(ctx, t, "endpoint", "--url"); got != old {
		t.Errorf("control: a restart alone has moved the gateway from %s to %s", old, got)
	}

	s.victim.MustRun(ctx, t, "serve", "--stop")
	heard := s.squat(t, hostOf(t, old))
	if _, err := s.victim.Run(ctx, "serve", "--detach", "--gateway-listen", hostOf(t, old)); err == nil || !strings.Contains(err.Error(), "choose another address") {
		t.Errorf("the port is taken, and that is not said: %v", err)
	}
	s.tried++
	out, err := s.victim.Command(ctx, "serve", "--detach").CombinedOutput()
	must(t, err)
	t.Logf("tried as the attacker: listen at %s while the controller is away: %s", old, strings.TrimSpace(string(out)))
	moved := s.victim.MustRun(ctx, t, "endpoint", "--url")
	if moved == old {
		t.Fatalf("two listen at %s", old)
	}
	s.tells(t, hostOf(t, old))
	warned, err := s.victim.Until(ctx, "a warning that names "+old, func(st installation.Status) bool {
		return strings.Contains(strings.Join(st.Warnings, "\n"), hostOf(t, old))
	})
	if err != nil {
		t.Errorf("HOLE: status does not say that somebody else is at %s: %v", old, err)
	}
	t.Logf("status warns: %q", warned.Warnings)
	if !strings.Contains(string(out), hostOf(t, old)) {
		t.Errorf("HOLE: serve --detach does not say that somebody else is at %s: %s", old, out)
	}
	s.client.URL = moved
	s.ask(t, moved)
	if text := heard(); text != "" {
		t.Errorf("HOLE: the victim's own programs have sent something to the attacker: %q", text)
	}
	s.knowPorts(t)
}

// restart ends the victim's controller and starts it again.
func (s *siege) restart(ctx context.Context, t *testing.T) {
	t.Helper()
	s.victim.MustRun(ctx, t, "serve", "--stop")
	s.victim.MustRun(ctx, t, "serve", "--detach")
}

// squat lets the attacker listen at an address until heard is called, which returns what came.
func (s *siege) squat(t *testing.T, address string) (heard func() string) {
	t.Helper()
	type result struct {
		list []outcome
		err  error
	}
	results := make(chan result, 1)
	ready := filepath.Join(s.mallory.home, "listening")
	stop := filepath.Join(s.mallory.home, "enough")
	go func() {
		list, err := s.play(s.mallory, "listen", []string{address, ready, stop})
		results <- result{list, err}
	}()
	end := sync.OnceValue(func() string {
		must(t, os.WriteFile(stop, nil, 0o644))
		r := <-results
		must(t, r.err)
		return r.list[0].Informed
	})
	t.Cleanup(func() { end() })
	waitFor(t, "the attacker listens", func() bool {
		_, err := os.Stat(ready)
		return err == nil
	})
	return end
}

// listen takes connections at an address and keeps what is sent, until a file appears.
func listen(in []byte, n *notes) error {
	var args []string
	if err := json.Unmarshal(in, &args); err != nil {
		return err
	}
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	defer l.Close()
	if err := os.WriteFile(args[1], nil, 0o644); err != nil {
		return err
	}
	o := n.of("listen at " + args[0])
	for end := time.Now().Add(trickPatience); time.Now().Before(end); {
		if _, err := os.Stat(args[2]); err == nil {
			return nil
		}
		_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(100 * time.Millisecond))
		conn, err := l.Accept()
		if err != nil {
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		text, _ := io.ReadAll(io.LimitReader(conn, 1<<16))
		o.Informed += string(text)
		_ = conn.Close()
	}
	return nil
}
