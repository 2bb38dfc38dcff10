package cli

import (
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func testIO(env map[string]string) IO {
	return IO{
		In: strings.NewReader(""), Out: io.Discard, Err: io.Discard, Dir: "/nowhere",
		Getenv: func(k string) string { return env[k] },
	}
}

// Tests of this package that make an app do not run side by side: the library keeps its help flag in a package variable.
func TestFlagsStandBeforeOrAfterArguments(t *testing.T) {
	for _, tc := range []struct{ in, want, bad string }{
		{in: "run f.yaml --detach", want: "run --detach -- f.yaml"},
		{in: "run --detach f.yaml", want: "run --detach -- f.yaml"},
		{in: "run --timeout 5s f.yaml", want: "run --timeout 5s -- f.yaml"},
		{in: "run --timeout=5s f.yaml", want: "run --timeout=5s -- f.yaml"},
		{in: "--json status", want: "status --json"},
		{in: "--state-dir /s status qwen", want: "status --state-dir /s -- qwen"},
		{in: "ps --json", want: "status --json"},
		{in: "logs -f qwen decode/0", want: "logs -f -- qwen decode/0"},
		{in: "run -- --odd-name.yaml", want: "run -- --odd-name.yaml"},
		{in: "run -", want: "run -- -"},
		{in: "key create --rpm 5 me", want: "key create --rpm 5 -- me"},
		{in: "status --help", want: "status --help"},
		{in: "run f.yaml --detatch", bad: "did you mean --detach?"},
		{in: "run f.yaml --timeout", bad: "needs a value"},
		{in: "statsu", bad: `did you mean "penstock status"?`},
		{in: "key craete me", bad: `did you mean "penstock key create"?`},
		{in: "--jsn status", bad: "did you mean --json?"},
	} {
		t.Run(tc.in, func(t *testing.T) {
			std := testIO(nil)
			got, err := orderArguments(newApp(std), append([]string{"penstock"}, strings.Fields(tc.in)...), std.Getenv)
			if tc.bad != "" {
				code, hint := classify(err)
				if err == nil || code != ExitUsage || !strings.Contains(err.Error()+hint, tc.bad) {
					t.Fatalf("got %v (%s, exit %d), want %q", err, hint, code, tc.bad)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(append([]string{"penstock"}, strings.Fields(tc.want)...), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Every flag has a variable of its own, and no two commands mean different things by one alias.
func TestEveryCommandIsWhole(t *testing.T) {
	seen := map[string]string{}
	for _, c := range newApp(testIO(nil)).Commands {
		for _, n := range c.Names() {
			if seen[n] != "" {
				t.Errorf("%q names both %s and %s", n, seen[n], c.Name)
			}
			seen[n] = c.Name
		}
		if c.Usage == "" {
			t.Errorf("%s says nothing of itself", c.Name)
		}
		if c.Action == nil && len(c.Subcommands) == 0 {
			t.Errorf("%s does nothing", c.Name)
		}
	}
}
