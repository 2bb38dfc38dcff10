package attack

import (
	"context"
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/tests/installation"
)

// siege is the stage: the victim with its installation, the attacker with its own.
type siege struct {
	world          string // 0755
	tmp            string // as /tmp: root's, 1777
	self           string // this test, where everybody may execute it
	alice, mallory *person
	victim         *installation.Installation
	rival          *installation.Installation // the attacker's own

	client  *installation.Client // the victim's
	second  string               // URL of the victim's second gateway
	talk    talk                 // what its gateways of their own say
	prompt  string               // what the victim asked its model
	answer  string
	secrets []secret
	ports   map[string]port // by address: those that the victim knows to be open
	before  installation.Status
	ownKey  string // of the rival

	tried    int
	verdicts []verdict
}

// port is one open port, as status tells it.
type port struct{ Address, Purpose, Protection string }

// Two equal replicas to attack, and one whose engine has two ranks.
const (
	deployment = `apiVersion: penstock/v1
name: attacked
model: {id: penstock/sim, servedName: tiny}
engine:
  kind: sim
  args: [--speedup, "10"]
cluster: local
roles:
  mixed: {replicas: 2, gpus: 1}
local:
  nodes: [{name: node-a, gpus: 2}]
`
	gang = `apiVersion: penstock/v1
name: gang
model: {id: penstock/sim, servedName: wide}
engine: {kind: sim}
cluster: local
roles:
  mixed: {nodes: 2, gpus: 1, parallel: {tensor: 2}}
local:
  nodes: [{name: node-b, gpus: 2}, {name: node-c, gpus: 2}]
`
)

// Secrets that a shell of the victim's holds, and that are no business of any job's.
var shellSecrets = map[string]string{
	"HF_TOKEN": "hf_canary0inTheShell", "AWS_SECRET_ACCESS_KEY": "aws0canary0inTheShell", "OPENAI_API_KEY": "sk-canary0inTheShell",
	"VLLM_API_KEY": "vllm0canary0inTheShell", "SLURM_JWT": "eyJcanary0inTheShell",
}

func newSiege(t *testing.T) *siege {
	t.Helper()
	s := &siege{world: worldDir(t), prompt: "The launch code of canary-7f3a is written under the lamp. " + strings.Repeat("Tell nobody about it. ", 20)}
	uid := freeUIDs(t)
	s.alice = s.newPerson(t, "alice", uid)
	s.mallory = s.newPerson(t, "mallory", uid+1)
	s.tmp = filepath.Join(s.world, "tmp")
	must(t, os.Mkdir(s.tmp, 0o700))
	must(t, os.Chmod(s.tmp, 0o777|os.ModeSticky))
	s.self = s.share(t, "attack", executable(t))
	binary := s.share(t, "penstock", installation.Build(t))
	s.victim = s.install(t, s.alice, s.withoutUmask(t, binary), shellSecrets)
	s.rival = s.install(t, s.mallory, binary, nil)
	s.startVictim(t)
	s.startRival(t)
	s.collectSecrets(t)
	return s
}

// install makes an installation of a user's: state in its home, sockets in the shared folder for temporary files, as where
// there is no XDG_RUNTIME_DIR.
func (s *siege) install(t *testing.T, p *person, binary string, env map[string]string) *installation.Installation {
	t.Helper()
	in := &installation.Installation{Dir: p.home, Binary: binary, As: p.credential()}
	in.Extra = []string{"HOME=" + p.home, "TMPDIR=" + s.tmp, "PENSTOCK_RUNTIME_DIR="}
	for k, v := range env {
		in.Extra = append(in.Extra, k+"="+v)
	}
	t.Cleanup(func() {
		if t.Failed() {
			showLogs(t, in)
		}
		if _, err := in.Clear(); err != nil {
			t.Error(err)
		}
	})
	return in
}

// runtimeDir is where the user's sockets are.
func (s *siege) runtimeDir(p *person) string {
	return filepath.Join(s.tmp, "penstock-"+strconv.Itoa(int(p.uid)))
}

func showLogs(t *testing.T, in *installation.Installation) {
	t.Helper()
	for _, pattern := range []string{"serve.log", "logs/*/*/agent-0.log"} {
		names, _ := filepath.Glob(filepath.Join(in.State(), pattern))
		for _, name := range names {
			t.Logf("--- %s\n%s", name, tail(name, 4000))
		}
	}
}

func tail(name string, n int) string {
	text, _ := os.ReadFile(name)
	return string(text[max(0, len(text)-n):])
}

// startVictim starts everything that there is to attack, and uses it once.
func (s *siege) startVictim(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	must(t, os.WriteFile(filepath.Join(s.alice.home, "attacked.yaml"), []byte(deployment), 0o644))
	must(t, os.WriteFile(filepath.Join(s.alice.home, "gang.yaml"), []byte(gang), 0o644))
	s.victim.MustRun(ctx, t, "serve", "--detach")
	s.victim.MustRun(ctx, t, "run", "--detach", "gang.yaml")
	s.victim.MustRun(ctx, t, "run", "attacked.yaml")
	s.victim.MustRun(ctx, t, "wait", "--timeout", "60s", "gang")
	s.second = s.startGateway(t, "second")
	var err error
	s.client, err = s.victim.Connect(ctx, "alice")
	must(t, err)
	for _, at := range []string{s.client.URL, s.second} {
		s.answer = s.ask(t, at)
	}
	s.before, err = s.victim.Status(ctx)
	must(t, err)
	s.knowPorts(t)
}

// ask asks the victim's question at a gateway, as the victim.
func (s *siege) ask(t *testing.T, at string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	client := installation.Client{URL: at, Key: s.client.Key}
	for {
		a, err := client.Chat(ctx, "tiny", []installation.Message{{Role: "user", Content: s.prompt}}, nil, nil)
		if err == nil {
			return a.Text
		}
		// The other gateway has yet to hear of the key, and to probe the replicas.
		select {
		case <-ctx.Done():
			t.Fatalf("ask at %s: %v", at, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// startRival starts the attacker's own installation: it has everything that the victim has, under another authority.
func (s *siege) startRival(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s.rival.MustRun(ctx, t, "serve", "--detach")
}

// endpoint is what the victim's controller has written down of itself.
func (s *siege) endpoint(t *testing.T) identity.Endpoint {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.victim.State(), "endpoint.json"))
	must(t, err)
	var e identity.Endpoint
	must(t, json.Unmarshal(text, &e))
	return e
}

func hostOf(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	must(t, err)
	return u.Host
}

// knowPorts notes every port that the victim may have open.
func (s *siege) knowPorts(t *testing.T) {
	t.Helper()
	s.ports = map[string]port{}
	know := func(p port) { s.ports[p.Address] = p }
	know(port{hostOf(t, s.endpoint(t).URL), "controller", "mtls"})
	know(port{hostOf(t, s.client.URL), "gateway", "key"})
	know(port{hostOf(t, s.second), "second gateway", "key"})
	var doc struct {
		Deployments []struct {
			Replicas []struct{ Ports []port }
		}
	}
	text := s.victim.MustRun(t.Context(), t, "status", "--json")
	must(t, json.Unmarshal([]byte(text), &doc))
	for _, d := range doc.Deployments {
		for _, r := range d.Replicas {
			for _, p := range r.Ports {
				if !strings.HasPrefix(p.Address, "unix:") {
					know(p)
				}
			}
		}
	}
}

// replicas are those of one rank.
func (s *siege) replicas() (list []installation.Replica) {
	for _, d := range s.before.Deployments {
		if d.Name == "attacked" {
			list = append(list, d.Replicas...)
		}
	}
	return list
}

// processes are the victim's, by its user ID.
func (s *siege) processes(t *testing.T) (pids []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	must(t, err)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if info, err := os.Stat("/proc/" + e.Name()); err == nil && info.Sys().(*syscall.Stat_t).Uid == s.alice.uid {
			pids = append(pids, pid)
		}
	}
	return pids
}

// runVictim runs a command of the victim's and returns all that it prints, whatever its exit code.
func (s *siege) runVictim(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := s.victim.Command(ctx, args...).CombinedOutput()
	if _, ended := err.(*exec.ExitError); err != nil && !ended {
		t.Fatalf("penstock %v: %v", args, err)
	}
	return string(out)
}
