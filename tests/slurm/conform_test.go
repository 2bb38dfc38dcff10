package slurm

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/slurm/testbed"
)

// breaking are the checks of the suite that break the cluster: each gets a bed of its own.
var breaking = []string{"silence_is", "no_call_outlives", "the_loss_of_a_node"}

// TestConforms runs the suite that every cluster passes against the adapter on a real Slurm, once with Slurm's commands and once
// through slurmrestd. The suite itself runs on the login node as Alice: this test binary, started again there (TestInside).
func TestConforms(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"commands", "rest"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			for _, check := range breaking {
				t.Run(check, func(t *testing.T) {
					t.Parallel()
					conform(t, transport, "-test.run=^TestInside$/^"+check)
				})
			}
			t.Run("others", func(t *testing.T) {
				t.Parallel()
				conform(t, transport, "-test.run=^TestInside$", "-test.skip=^TestInside$/^("+strings.Join(breaking, "|")+")", "-test.parallel=8")
			})
		})
	}
}

func conform(t *testing.T, transport string, args ...string) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	b := testbed.ForTest(ctx, t, testbed.Options{Version: *release})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(b.Dir, "bin", "suite")
	if err := copyFile(program, self); err != nil {
		t.Fatal(err)
	}
	stop := control(ctx, t, b)
	defer stop()
	env := []string{insideEnv + "=" + b.Dir}
	if transport == "rest" {
		env = append(env, restEnv+"="+b.RESTSocket())
	}
	cmd := b.Login().Command(ctx, testbed.Alice, env, append([]string{program, "-test.v"}, args...)...)
	out, err := cmd.CombinedOutput()
	passed := report(t, string(out))
	if err != nil || passed == 0 || t.Failed() {
		t.Errorf("the suite on the login node: %d checks passed, %v\n%s", passed, err, out)
	}
}

var verdicts = regexp.MustCompile(`(?m)^\s+--- (PASS|FAIL|SKIP): TestInside/(\S+) \((.*)\)$`)

// report makes a subtest of each check and counts those that passed.
func report(t *testing.T, out string) (passed int) {
	for _, m := range verdicts.FindAllStringSubmatch(out, -1) {
		t.Run(m[2], func(t *testing.T) {
			t.Log(m[3])
			if m[1] != "PASS" {
				t.Fail()
			}
		})
		if m[1] == "PASS" {
			passed++
		}
	}
	for line := range strings.Lines(out) {
		if _, what, ok := strings.Cut(line, "NOT SHOWN"); ok {
			t.Log("not shown" + strings.TrimSpace(what))
		}
	}
	return passed
}
