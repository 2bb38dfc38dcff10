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
		{in: "status -- --help", want: "status -- --help"},
		{in: "scale demo -- mixed=1", want: "scale -- demo mixed=1"},
		{in: "logs demo -- -f", want: "logs -- demo -f"},
		{in: "-- status", want: "-- status"},
		{in: "", want: ""},
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

// TestHelp: help is on stdout and ends with 0, however it is asked for, and whatever else is wrong.
func TestHelp(t *testing.T) {
	t.Parallel()
	tt := newTerminal(t, nil)
	tt.env["PENSTOCK_TIMEOUT"] = "soon"
	for name, lines := range map[string][]string{
		"help":            {"", "--help", "-h", "help", "--json --help"},
		"help-run":        {"run --help", "run -h", "help run", "run f.yaml --help", "--help run", "--json run --help"},
		"help-key":        {"key", "key --help", "help key"},
		"help-key-create": {"key create --help", "help key create", "key --help create"},
	} {
		for _, line := range lines {
			code, out, talk := tt.run(strings.Fields(line)...)
			if code != 0 || talk != "" {
				t.Errorf("%q: exit %d: %s", line, code, talk)
			}
			golden(t, name, out)
		}
	}
	for _, line := range []string{"helo", "help nothing", "key nothing --help"} {
		if code, out, _ := tt.run(strings.Fields(line)...); code != ExitUsage || out != "" {
			t.Errorf("%q: exit %d: %s", line, code, out)
		}
	}
}

// TestEveryCommandIsWhole: no two commands mean different things by one name, and each says what it is.
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
