// Package script runs the real program as people type it: one testscript for each group of commands.
package script

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	_ "github.com/penstock/penstock/cli" // the program is built apart: so a change of it makes older results of these tests void
	"github.com/penstock/penstock/tests/installation"
)

func TestMain(m *testing.M) {
	code := m.Run()
	installation.RemoveBuild()
	os.Exit(code)
}

func TestScripts(t *testing.T) {
	binary := installation.Build(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: false,
		Setup: func(env *testscript.Env) error {
			dir, err := os.MkdirTemp("", "ps-") // testscript's own folders are too long for unix sockets
			if err != nil {
				return err
			}
			in := &installation.Installation{Dir: dir, Binary: binary}
			env.Defer(func() { _, _ = in.Clear() })
			env.Vars = append(env.Vars, "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"), "DIR="+dir, "PENSTOCK_STATE_DIR="+in.State(), "PENSTOCK_RUNTIME_DIR="+filepath.Join(dir, "run"),
				"XDG_CONFIG_HOME="+filepath.Join(dir, "config"), "PENSTOCK_SITE_FILE="+filepath.Join(dir, "site.yaml"), "NO_COLOR=1")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			// penstock CODE ARGS...: run the program; it must end with the exit code.
			"penstock": func(ts *testscript.TestScript, neg bool, args []string) { runPenstock(ts, neg, binary, args) },
			// until REGEXP ARGS...: run the program again and again until what it prints matches.
			"until": func(ts *testscript.TestScript, _ bool, args []string) { runUntil(ts, binary, args[0], args[1:]) },
		},
	})
}
