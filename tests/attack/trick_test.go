package attack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A trick is one piece of an attack: code of this test that runs in a process of the attacker's, or of the victim's as a
// control. It reads its arguments as JSON and writes its outcomes as JSON.

const trickEnv = "PENSTOCK_TEST_TRICK"

// outcome is what came of trying one thing, perhaps on many targets.
type outcome struct {
	What     string
	Refused  map[string]int // by reason
	Worked   []string       // targets
	Informed string         // what else the attack found out, for the test to look at
}

func (o outcome) tried() int {
	n := len(o.Worked)
	for _, k := range o.Refused {
		n += k
	}
	return n
}

func (o outcome) String() string {
	var parts []string
	for _, reason := range slices.Sorted(maps.Keys(o.Refused)) {
		parts = append(parts, fmt.Sprintf("%d× %s", o.Refused[reason], reason))
	}
	if len(o.Worked) > 0 {
		parts = append(parts, fmt.Sprintf("%d× worked: %s", len(o.Worked), strings.Join(o.Worked[:min(len(o.Worked), 8)], ", ")))
	}
	return o.What + ": " + strings.Join(parts, "; ")
}

// notes collects outcomes in the order in which things were first tried.
type notes struct{ list []*outcome }

func (n *notes) of(what string) *outcome {
	for _, o := range n.list {
		if o.What == what {
			return o
		}
	}
	o := &outcome{What: what, Refused: map[string]int{}}
	n.list = append(n.list, o)
	return o
}

// try notes how one attempt on one target ended. nil = it worked.
func (n *notes) try(what, target string, err error) {
	o := n.of(what)
	if err == nil {
		o.Worked = append(o.Worked, target)
		return
	}
	o.Refused[reason(err)]++
}

// reason is an error without the target's name, so that equal ones count together.
func reason(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}

// trick is the code of one. args is JSON.
type trick func(args []byte, n *notes) error

var tricks = map[string]trick{}

// playTrick runs one in this process.
func playTrick(name string) int {
	var args json.RawMessage
	if err := json.NewDecoder(os.Stdin).Decode(&args); err != nil {
		fmt.Fprintln(os.Stderr, "arguments:", err)
		return 2
	}
	do, ok := tricks[name]
	if !ok {
		fmt.Fprintln(os.Stderr, "no trick", name)
		return 2
	}
	var n notes
	if err := do(args, &n); err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		return 1
	}
	if err := json.NewEncoder(os.Stdout).Encode(n.list); err != nil {
		return 1
	}
	return 0
}

const trickPatience = 60 * time.Second

// as runs a trick as a user and returns its outcomes.
func (s *siege) as(t *testing.T, u *person, name string, args any) []outcome {
	t.Helper()
	list, err := s.play(u, name, args)
	if err != nil {
		t.Fatalf("trick %s as %s: %v", name, u.name, err)
	}
	return list
}

// play runs a trick in a process of a user's.
func (s *siege) play(u *person, name string, args any) (list []outcome, err error) {
	in, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(timeless, trickPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.self)
	cmd.Env = []string{trickEnv + "=" + name, "PATH=" + os.Getenv("PATH"), "HOME=" + u.home, "TMPDIR=" + s.tmp}
	cmd.Dir = u.home
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: u.credential()}
	cmd.Stdin, cmd.WaitDelay = bytes.NewReader(in), time.Second
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return list, nil
}

// fails runs a trick as the attacker. Whatever works is a hole, and so is a refusal for another reason than those allowed:
// an attack on a target that is not there holds nothing back.
func (s *siege) fails(t *testing.T, name string, args any, allowed ...string) []outcome {
	t.Helper()
	list := s.as(t, s.mallory, name, args)
	if len(list) == 0 {
		t.Errorf("trick %s tried nothing", name)
	}
	for _, o := range list {
		t.Log("tried as the attacker: " + o.String())
		s.tried += o.tried()
		if len(o.Worked) > 0 {
			t.Errorf("HOLE: %s: %s", o.What, strings.Join(o.Worked, ", "))
		}
		for why, n := range o.Refused {
			if !slices.ContainsFunc(allowed, func(a string) bool { return strings.Contains(why, a) }) {
				t.Errorf("%s: %d times refused, but for the reason %q; expected one of %q", o.What, n, why, allowed)
			}
		}
	}
	return list
}

// works runs the same trick as the victim, and it must work: else the attack proves nothing.
func (s *siege) works(t *testing.T, name string, args any) {
	t.Helper()
	for _, o := range s.as(t, s.alice, name, args) {
		if len(o.Worked) == 0 {
			t.Errorf("control: not even the victim can: %s", o)
		}
	}
}

// denied are the words of the kernel for "this is not yours".
var denied = []string{syscall.EACCES.Error(), syscall.EPERM.Error()}
