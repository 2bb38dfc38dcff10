package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// TestRunFromStandardInput: - is standard input, in every command that takes a file.
func TestRunFromStandardInput(t *testing.T) {
	t.Parallel()
	var applied *apiv1.ApplyRequest
	f := everythingWorks()
	f.apply = func(q *apiv1.ApplyRequest) (*apiv1.ApplyResponse, error) {
		applied = q
		return &apiv1.ApplyResponse{Deployment: "demo", Revision: 1, Changed: true}, nil
	}
	for _, line := range []string{"run -", "plan -", "render -"} {
		tt := newTerminal(t, f)
		tt.In = strings.NewReader(demoFile)
		if code, _, talk := tt.run(strings.Fields(line)...); code != 0 {
			t.Errorf("%s: exit %d: %s", line, code, talk)
		}
	}
	if applied.GetYaml() != demoFile || applied.GetSource() != "-" {
		t.Errorf("the controller got %v", applied)
	}
	tt := newTerminal(t, f)
	tt.In = strings.NewReader("# " + strings.Repeat("x", maxDeploymentFile))
	if code, _, talk := tt.run("run", "-"); code != ExitError || talk == "" {
		t.Errorf("an endless file: exit %d: %s", code, talk)
	}
}

// TestRunPrints: what is asked for on stdout, all else on stderr.
func TestRunPrints(t *testing.T) {
	t.Parallel()
	f := everythingWorks()
	f.apply = func(*apiv1.ApplyRequest) (*apiv1.ApplyResponse, error) {
		return &apiv1.ApplyResponse{Deployment: "demo", Revision: 1, Actions: []*apiv1.Action{{Verb: "start", Deployment: "demo", Role: "mixed", Reason: "wanted"}}}, nil
	}
	tt := newTerminal(t, f)
	tt.write(t, "f.yaml", demoFile)
	for line, want := range map[string][2]string{
		"run f.yaml":            {"demo revision 1\n", "demo: revision 1 already says this\n+ start demo mixed/0: wanted\ndemo mixed/0: ready\n"},
		"run f.yaml --parsable": {"demo;1\n", "demo mixed/0: ready"},
		"run f.yaml --detach":   {"demo revision 1\n", "+ start demo mixed/0: wanted"},
	} {
		code, out, talk := tt.run(strings.Fields(line)...)
		if code != 0 || out != want[0] || !strings.Contains(talk, want[1]) {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", line, code, out, talk)
		}
	}
}

// TestKeyCreate: the secret is in the file or on stdout, in one place; and no key is made whose secret would be lost.
func TestKeyCreate(t *testing.T) {
	t.Parallel()
	made := 0
	f := everythingWorks()
	ok := f.createKey
	f.createKey = func(q *apiv1.CreateKeyRequest) (*apiv1.CreateKeyResponse, error) {
		if made++; q.Name == "taken" {
			return nil, connect.NewError(connect.CodeAlreadyExists, errors.New("a key of that name exists"))
		}
		if want := (&apiv1.CreateKeyRequest{Name: "me", Models: []string{"a*", "b"}, RequestsPerMinute: 5, TokensPerMinute: 1 << 40, Concurrency: 2, Tenant: "t"}); q.Tenant != "" && !proto.Equal(q, want) {
			t.Errorf("asked for %v, want %v", q, want)
		}
		return ok(q)
	}
	tt := newTerminal(t, f)
	line := strings.Fields("key create me --models a* --models b --rpm 5 --tpm 1099511627776 --concurrency 2 --tenant t")
	if code, out, talk := tt.run(line...); code != 0 || out != "psk-abc-secret\n" || strings.Contains(talk, "secret\n") {
		t.Errorf("exit %d: %q, %q", code, out, talk)
	}
	path := filepath.Join(tt.Dir, "k")
	if code, out, talk := tt.run("key", "create", "me", "--out", "k", "--json"); code != 0 || strings.Contains(out+talk, "psk-") {
		t.Errorf("exit %d: %q, %q", code, out, talk)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info, err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "psk-abc-secret\n" {
		t.Errorf("in the file: %q, %v", text, err)
	}
	made = 0
	if code, _, talk := tt.run("key", "create", "me", "--out", "k"); code != ExitError || made != 0 {
		t.Errorf("onto a file that is there: exit %d, %d keys made: %s", code, made, talk)
	}
	if code, _, _ := tt.run("key", "create", "taken", "--out", "l"); code != ExitError {
		t.Errorf("refused: exit %d", code)
	}
	if _, err := os.Stat(filepath.Join(tt.Dir, "l")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty file is left: %v", err)
	}
}

// TestStopSome: what was stopped before something went wrong is said.
func TestStopSome(t *testing.T) {
	t.Parallel()
	f := everythingWorks()
	f.stop = func(q *apiv1.StopDeploymentRequest) (*apiv1.StopDeploymentResponse, error) {
		if q.Deployment == "b" {
			return nil, connect.NewError(connect.CodeNotFound, errors.New("no b"))
		}
		return &apiv1.StopDeploymentResponse{Deployments: []string{q.Deployment}}, nil
	}
	f.status = statusOf(&apiv1.DeploymentStatus{Name: "a", State: "stopping"}, &apiv1.DeploymentStatus{Name: "c", State: "stopped"})
	tt := newTerminal(t, f)
	if code, out, talk := tt.run("stop", "a", "b", "c"); code != ExitNotFound || out != "" || !strings.Contains(talk, "a is told to stop") {
		t.Errorf("exit %d: %q, %q", code, out, talk)
	}
	if code, _, talk := tt.run("stop", "a", "c"); code != 0 || !strings.Contains(talk, "a is stopping; streams may finish first. Watch it with: penstock wait a --for stopped") {
		t.Errorf("exit %d: %q", code, talk)
	}
	if code, _, talk := tt.run("stop", "c"); code != 0 || !strings.Contains(talk, "nothing of c runs") {
		t.Errorf("exit %d: %q", code, talk)
	}
	if code, out, _ := tt.run("stop", "a", "c"); code != 0 || out != "a\nc\n" {
		t.Errorf("exit %d: %q", code, out)
	}
}

// TestColours: on a terminal, unless somebody does not want them; never in a pipe, unless somebody does.
func TestColours(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		tty  bool
		env  string
		args string
		want bool
	}{
		{true, "", "status", true},
		{false, "", "status", false},
		{true, "NO_COLOR=1", "status", false},
		{true, "PENSTOCK_NO_COLOR=true", "status", false},
		{true, "CLICOLOR=0", "status", false},
		{true, "TERM=dumb", "status", false},
		{false, "CLICOLOR_FORCE=1", "status", true},
		{false, "CLICOLOR_FORCE=0", "status", false},
		{true, "", "status --no-color", false},
		{true, "", "status nobody", true}, // the error's own name
		{true, "NO_COLOR=1", "status nobody", false},
		{true, "", "status nobody --no-color", false},
		{true, "PENSTOCK_NO_COLOR=1", "status nobody", false},
	} {
		f := &fakeControl{status: answerWith(fixedStatus())}
		if strings.Contains(c.args, "nobody") {
			f.status = refuse(connect.CodeNotFound)
		}
		tt := newTerminal(t, f)
		tt.OutTTY, tt.ErrTTY = c.tty, c.tty
		if k, v, ok := strings.Cut(c.env, "="); ok {
			tt.env[k] = v
		}
		_, out, talk := tt.run(strings.Fields(c.args)...)
		if strings.Contains(out+talk, "\x1b[") != c.want {
			t.Errorf("%+v: %q", c, out+talk)
		}
	}
}

// TestLogsPrint: whose line it is, unless one replica was asked for.
func TestLogsPrint(t *testing.T) {
	t.Parallel()
	f := everythingWorks()
	f.logs = []*apiv1.LogsResponse{{Replica: "mixed/0", Line: "a"}, {Replica: "mixed/0", NodeRank: 1, Line: "b"}}
	tt := newTerminal(t, f)
	for line, want := range map[string]string{
		"logs demo": "mixed/0 | a\nmixed/0.1 | b\n", "logs demo mixed/0": "a\nmixed/0.1 | b\n",
		"logs demo --json": `{"line":"a","node_rank":0,"replica":"mixed/0","schema":"penstock.log/v1"}` + "\n" + `{"line":"b","node_rank":1,"replica":"mixed/0","schema":"penstock.log/v1"}` + "\n",
	} {
		if _, out, _ := tt.run(strings.Fields(line)...); out != want {
			t.Errorf("%s: %q", line, out)
		}
	}
}
