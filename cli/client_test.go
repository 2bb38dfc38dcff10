package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWrongStateFolder: a slip in the folder's name is told, and makes no folder.
func TestWrongStateFolder(t *testing.T) {
	t.Parallel()
	for _, args := range []string{
		"status", "nodes", "logs demo", "events", "why", "endpoint", "key list", "key create me", "key revoke me", "wait demo", "plan",
		"scale demo mixed=1", "drain demo mixed/0", "stop demo", "stop --all --wait", "serve --stop", "gateway",
	} {
		tt := newTerminal(t, nil)
		wrong := filepath.Join(tt.Dir, "wrong")
		code, _, talk := tt.run(append(strings.Fields(args), "--state-dir", wrong)...)
		want := ExitError
		if args == "plan" {
			want = PlanError
		}
		if code != want || !strings.Contains(talk, "none has run on the state folder "+wrong) {
			t.Errorf("%s: exit %d: %s", args, code, talk)
		}
		if _, err := os.Lstat(wrong); !os.IsNotExist(err) {
			t.Errorf("%s has made the folder: %v", args, err)
		}
		if err := os.Mkdir(wrong, 0o700); err != nil {
			t.Fatal(err)
		}
		_, _, _ = tt.run(append(strings.Fields(args), "--state-dir", wrong)...)
		if entries, err := os.ReadDir(wrong); err != nil || len(entries) > 0 {
			t.Errorf("%s has put something into a folder that is no state folder: %v, %v", args, entries, err)
		}
	}
}
