package attack

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// secret is something that only the victim may know, and where it may stand.
type secret struct {
	name string
	raw  []byte
	file string // below the state folder, a pattern of path.Match; "" = nowhere
	env  bool   // it is in the environment of the shell that started the controller
}

// spellings are the forms in which a secret might leak.
func (x secret) spellings() [][]byte {
	return [][]byte{
		x.raw, []byte(hex.EncodeToString(x.raw)), []byte(base64.StdEncoding.EncodeToString(x.raw)),
		[]byte(base64.RawURLEncoding.EncodeToString(x.raw)),
	}
}

func (x secret) in(text []byte) bool {
	return slices.ContainsFunc(x.spellings(), func(form []byte) bool { return bytes.Contains(text, form) })
}

// collectSecrets reads the victim's secrets from where they belong.
func (s *siege) collectSecrets(t *testing.T) {
	t.Helper()
	state := s.victim.State()
	read := func(name string) []byte {
		text, err := os.ReadFile(filepath.Join(state, name))
		must(t, err)
		return text
	}
	salt := read("cache-salt.key")
	_, keySecret, _ := strings.Cut(strings.TrimPrefix(s.client.Key, "psk-"), "-")
	keyID, _, _ := strings.Cut(strings.TrimPrefix(s.client.Key, "psk-"), "-")
	s.secrets = []secret{
		{name: "API key", raw: []byte(keySecret)},
		{name: "secret of join tokens", raw: read("ca/join.secret"), file: "ca/join.secret"},
		{name: "key of cache salts", raw: salt, file: "cache-salt.key"},
		{name: "cache salt of the tenant", raw: saltOf(salt, keyID)},
		{name: "key of the authority", raw: privateKey(t, read("ca/authority.pem")), file: "ca/authority.pem"},
		{name: "key of the owner", raw: privateKey(t, read("owner.pem")), file: "owner.pem"},
		{name: "prompt", raw: []byte("canary-7f3a")},
		{name: "answer", raw: []byte(s.answer[len(s.answer)/2:])},
	}
	names, err := filepath.Glob(filepath.Join(state, "join", "*.json"))
	must(t, err)
	for _, name := range names {
		var join struct{ Token string }
		text, err := os.ReadFile(name)
		must(t, err)
		must(t, json.Unmarshal(text, &join))
		s.secrets = append(s.secrets, secret{name: "join token", raw: []byte(join.Token), file: "join/" + filepath.Base(name)})
	}
	for name, value := range shellSecrets {
		s.secrets = append(s.secrets, secret{name: name + " of the shell", raw: []byte(value), env: true})
	}
	if len(names) != 3 || len(s.answer) < 40 {
		t.Fatalf("%d join files, answer %q", len(names), s.answer)
	}
	for _, x := range s.secrets {
		if len(x.raw) < 8 {
			t.Fatalf("the %s has %d bytes: a search for it would find anything", x.name, len(x.raw))
		}
	}
}

// saltOf is what the gateway makes of a tenant's name.
func saltOf(key []byte, tenant string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("penstock cache salt\x00" + tenant))
	return mac.Sum(nil)
}

// privateKey is the secret number of the first key in a PEM file.
func privateKey(t *testing.T, text []byte) []byte {
	t.Helper()
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "PRIVATE KEY" {
			continue
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		must(t, err)
		raw, err := key.(*ecdsa.PrivateKey).Bytes()
		must(t, err)
		return raw
	}
	t.Fatal("no private key")
	return nil
}

// searchSecrets looks for each secret where others, or those who read a log for somebody, would see it: the process table,
// environments, files, and everything that commands print.
func searchSecrets(t *testing.T, s *siege) {
	s.searchProcessTable(t)
	s.searchEnvironments(t)
	s.searchFiles(t)
	s.searchOutput(t)
}

// found reports a secret in a text where it does not belong.
func (s *siege) found(t *testing.T, where string, text []byte, except func(secret) bool) {
	t.Helper()
	for _, x := range s.secrets {
		s.tried++
		if x.in(text) && (except == nil || !except(x)) {
			t.Errorf("HOLE: the %s stands in %s", x.name, where)
		}
	}
}

func (s *siege) searchProcessTable(t *testing.T) {
	t.Helper()
	list := s.as(t, s.mallory, "look at the process table", nil)
	seen := list[0].Informed
	if !strings.Contains(seen, "--join") || !strings.Contains(seen, "engine\x00sim") {
		t.Error("the attacker should see the command lines of agents and engines")
	}
	t.Logf("tried as the attacker: read cmdline, comm, status, stat, wchan of %d processes", len(list[0].Worked))
	s.found(t, "the process table", []byte(seen), nil)
}

func init() { tricks["look at the process table"] = lookAtProcesses }

func lookAtProcesses(_ []byte, n *notes) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	o := n.of("look at the process table")
	for _, e := range entries {
		if e.Name()[0] < '0' || e.Name()[0] > '9' {
			continue
		}
		for _, file := range []string{"cmdline", "comm", "status", "stat", "wchan", "cgroup", "environ"} {
			text, _ := os.ReadFile(filepath.Join("/proc", e.Name(), file))
			o.Informed += string(text) + "\n"
		}
		o.Worked = append(o.Worked, e.Name())
	}
	return nil
}

// searchEnvironments: the controller and the gateway have the environment of the shell that started them; what runs in
// jobs has no secret of anybody's.
func (s *siege) searchEnvironments(t *testing.T) {
	t.Helper()
	inherited := 0
	for _, p := range s.victim.Processes() {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.PID))
		must(t, err)
		byShell := p.Is("serve") || p.Is("gateway")
		if byShell && bytes.Contains(env, []byte(shellSecrets["HF_TOKEN"])) {
			inherited++
		}
		s.found(t, fmt.Sprintf("the environment of process %d %v", p.PID, p.Command), env, func(x secret) bool { return x.env && byShell })
	}
	if inherited < 2 {
		t.Errorf("the search for secrets in environments finds those of the shell in %d processes; a controller and a gateway have them", inherited)
	}
}

// searchFiles: each secret stands in its own file and in no other.
func (s *siege) searchFiles(t *testing.T) {
	t.Helper()
	home := map[string]bool{}
	for _, b := range s.belongings(t) {
		text, err := os.ReadFile(b.path)
		if err != nil {
			continue // a folder, a socket, or gone
		}
		name := strings.TrimPrefix(b.path, s.victim.State()+"/")
		s.found(t, b.path, withPEM(text), func(x secret) bool {
			home[x.name] = home[x.name] || x.file == name
			return x.file == name
		})
	}
	for _, x := range s.secrets {
		if x.file != "" && !home[x.name] {
			t.Errorf("the search finds the %s not even in %s", x.name, x.file)
		}
	}
}

// withPEM adds to a text what stands in it as PEM, where base64 and its lines hide it.
func withPEM(text []byte) []byte {
	out := slices.Clone(text)
	lines := bytes.ReplaceAll(text, []byte(`\n`), []byte("\n"))
	for block, rest := pem.Decode(lines); block != nil; block, rest = pem.Decode(rest) {
		out = append(out, block.Bytes...)
	}
	return out
}

// searchOutput looks at what the victim's commands print, and at the talk of the second gateway.
func (s *siege) searchOutput(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{
		{"render", "attacked.yaml"},
		{"plan", "attacked.yaml"},
		{"plan", "--json"},
		{"run", "--dry-run", "attacked.yaml"},
		{"status", "--wide"},
		{"status", "--json"},
		{"nodes", "--json"},
		{"events", "--json", "--tail", "0"},
		{"why"},
		{"why", "--json"},
		{"endpoint"},
		{"endpoint", "--json"},
		{"key", "list", "--json"},
		{"config", "view", "--origin"},
		{"version", "--json"},
		{"logs", "attacked"},
		{"logs", "--agent", "attacked"},
		{"logs", "--json", "attacked"},
	} {
		out := s.runVictim(t, args...)
		if len(out) == 0 && args[0] != "logs" {
			t.Errorf("penstock %v prints nothing", args)
		}
		s.found(t, fmt.Sprintf("what `penstock %s` prints", strings.Join(args, " ")), []byte(out), nil)
	}
	s.found(t, "what the second gateway says", s.talk.bytes(), nil)
	if len(s.talk.bytes()) == 0 {
		t.Error("the second gateway has said nothing")
	}
}
