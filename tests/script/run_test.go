package script

import (
	"regexp"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// runPenstock runs `penstock ARGS`, or `penstock =CODE ARGS` where another exit code than 0 is expected.
func runPenstock(ts *testscript.TestScript, neg bool, binary string, args []string) {
	want := 0
	if len(args) > 0 && args[0][0] == '=' {
		n, err := strconv.Atoi(args[0][1:])
		ts.Check(err)
		want, args = n, args[1:]
	}
	if neg {
		ts.Fatalf("say which exit code you expect: penstock =CODE ...")
	}
	err := ts.Exec(binary, args...)
	got := 0
	if err != nil {
		exit, ok := err.(interface{ ExitCode() int })
		if !ok {
			ts.Fatalf("penstock: %v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("penstock %v ended with %d, not with %d", args, got, want)
	}
}

// runUntil runs a command until what it prints on stdout matches.
func runUntil(ts *testscript.TestScript, binary, pattern string, args []string) {
	want, err := regexp.Compile("(?m)" + pattern)
	ts.Check(err)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		_ = ts.Exec(binary, args...)
		if want.MatchString(ts.ReadFile("stdout")) {
			return
		}
	}
	ts.Fatalf("penstock %v does not print %s", args, pattern)
}
