package script

import (
	"strconv"

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
