package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// withDemo is a controller that has two deployments.
func withDemo() *fakeControl {
	return &fakeControl{status: answerWith(&apiv1.StatusResponse{At: at(0), Deployments: []*apiv1.DeploymentStatus{
		{Name: "demo", Roles: []*apiv1.RoleStatus{{Role: "prefill"}, {Role: "decode"}}, Replicas: []*apiv1.ReplicaStatus{{Name: "prefill/0"}, {Name: "decode/0"}}},
		{Name: "other"},
	}})}
}

// TestWords: what may stand next, after some words.
func TestWords(t *testing.T) {
	t.Parallel()
	tt := newTerminal(t, withDemo())
	for before, want := range map[string]string{ // words that must be there; those with ! must not
		"":              "run status key !agent !local-job !--json",
		"key":           "create list revoke !run",
		"engine":        "sim",
		"run":           "--timeout --detach --json !demo",
		"status":        "demo other --wide",
		"ps":            "demo other --wide",
		"logs":          "demo other --follow",
		"logs demo":     "prefill/0 decode/0 !other",
		"drain demo":    "prefill/0 --deadline",
		"scale demo":    "prefill= decode= !prefill/0",
		"key create":    "--rpm",
		"--json status": "demo",
		"nonsense":      "run",
	} {
		code, out, _ := tt.run(append([]string{"completion", "words", "--"}, strings.Fields(before)...)...)
		got := strings.Fields(out)
		for w := range strings.FieldsSeq(want) {
			if word, not := strings.CutPrefix(w, "!"); code != 0 || slices.Contains(got, word) == not {
				t.Errorf("after %q: %q, wanted: %v; exit %d", before, out, w, code)
			}
		}
	}
	alone := newTerminal(t, nil)
	if code, out, talk := alone.run("completion", "words", "--", "status"); code != 0 || talk != "" || !strings.Contains(out, "--wide") {
		t.Errorf("without a controller: exit %d, %s%s", code, out, talk)
	}
}

// TestBashCompletes sources the script into a real bash and presses tab.
func TestBashCompletes(t *testing.T) {
	t.Parallel()
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Fatalf("needs bash (tests/needs.sh): %v", err)
	}
	dir := t.TempDir()
	_, script, _ := newTerminal(t, nil).run("completion", "bash")
	// The program is a stand-in that prints what it is asked, so that the script alone is tested.
	fake := "#!/bin/sh\nprintf '%s\\n' run status --json --wide 'odd name' \"asked:$(printf '%s,' \"$@\")\"\n"
	for name, text := range map[string]string{"penstock": fake, "script": script} {
		syscall.ForkLock.RLock() // a child forked meanwhile would hold the program open for writing: "text file busy"
		err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700)
		syscall.ForkLock.RUnlock()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ words, want string }{
		{"penstock ''", "run status odd name asked:completion,words,--,"},
		{"penstock st", "status"},
		{"penstock status --", "--json --wide"},
		{"penstock status -- ''", "run status odd name asked:completion,words,--,status,--,"},
		{"penstock logs demo o", "odd name"},
		{dir + "/penstock zzz", ""},
	} {
		call := fmt.Sprintf(`source "$1"; COMP_WORDS=(%s); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _penstock; printf '%%s ' "${COMPREPLY[@]}"; complete -p penstock`, c.words)
		cmd := exec.CommandContext(t.Context(), bash, "--norc", "-c", call, "bash", filepath.Join(dir, "script"))
		cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
		out, err := cmd.CombinedOutput()
		got, registered, _ := strings.Cut(string(out), "complete ")
		if err != nil || strings.TrimSpace(got) != c.want || !strings.Contains(registered, "-F _penstock penstock") {
			t.Errorf("%s: %q, want %q; %v", c.words, out, c.want, err)
		}
	}
}
