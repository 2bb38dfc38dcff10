package identity

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func joinFile(ca *CA) JoinFile {
	return JoinFile{
		Format: 1, Launch: "l1", Token: "pst-secret", EndpointFile: "/state/endpoint.json",
		Controllers: []string{"https://login1:7000", "https://[::1]:7000"}, CAPEM: string(ca.PEM()), Installation: ca.Installation(),
	}
}

func endpoint(ca *CA) Endpoint {
	return Endpoint{
		Format: 1, Term: 3, URL: "https://login1:7000", Socket: "/run/user/1000/penstock/control.sock", Hostname: "login1", PID: 77,
		StartedAt: time.Unix(1_700_000_000, 0).UTC(), GatewayURL: "https://login1:8000/v1", CAPEM: string(ca.PEM()),
	}
}

func TestJoinFile(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	path := filepath.Join(t.TempDir(), "l1.json")
	want := joinFile(ca)
	for range 2 { // also over an old one
		if err := WriteJoinFile(path, want); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ReadJoinFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(path, 0o604); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadJoinFile(path); err == nil || !strings.Contains(err.Error(), "chmod 600 "+path) || strings.Contains(err.Error(), "pst-secret") {
		t.Errorf("readable by all: %v", err)
	}
	if _, err := ReadJoinFile(path + "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func TestJoinFileIsChecked(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	for says, change := range map[string]func(*JoinFile){
		"not a launch token":          func(j *JoinFile) { j.Launch = "../l1" },
		"no token":                    func(j *JoinFile) { j.Token = "" },
		"not 32 hexadecimal":          func(j *JoinFile) { j.Installation = "x" },
		"neither an endpoint file":    func(j *JoinFile) { j.EndpointFile, j.Controllers = "", nil },
		"is not https://host:port":    func(j *JoinFile) { j.Controllers[1] = "http://login1:7000" },
		"\"https://login1\" is not":   func(j *JoinFile) { j.Controllers[0] = "https://login1" },
		"\"https://:7000\" is not":    func(j *JoinFile) { j.Controllers[0] = "https://:7000" },
		"\"https://h:7/x\" is not":    func(j *JoinFile) { j.Controllers[0] = "https://h:7/x" },
		"\"https://u@h:7\" is not":    func(j *JoinFile) { j.Controllers[0] = "https://u@h:7" },
		"\"https://h:70000\" is not":  func(j *JoinFile) { j.Controllers[0] = "https://h:70000" },
		"CA certificate: not one PEM": func(j *JoinFile) { j.CAPEM += j.CAPEM },
		"it is no authority's": func(j *JoinFile) {
			csr, _, _ := NewCSR()
			leaf, _ := ca.SignCSR(csr, agentID, time.Hour, time.Now())
			j.CAPEM = string(leaf)
		},
	} {
		j := joinFile(ca)
		change(&j)
		path := filepath.Join(t.TempDir(), "l1.json")
		if err := WriteJoinFile(path, j); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("write: %v, wanted it to say %q", err, says)
		}
		data, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseJoinFile(data); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("read: %v, wanted it to say %q", err, says)
		}
	}
	if _, err := parseJoinFile([]byte(`{"format":2}`)); err == nil || !strings.Contains(err.Error(), "format 2") {
		t.Errorf("newer format: %v", err)
	}
}

func TestEndpoint(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	path := filepath.Join(t.TempDir(), "endpoint.json")
	if _, err := ReadEndpoint(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before any controller: %v", err)
	}
	want := endpoint(ca)
	if err := WriteEndpoint(path, want); err != nil {
		t.Fatal(err)
	}
	got, err := ReadEndpoint(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	older := want
	older.Term = 2
	if err := WriteEndpoint(path, older); !errors.Is(err, ErrOlderTerm) {
		t.Errorf("an older controller: %v", err)
	}
	if got, _ := ReadEndpoint(path); got.Term != 3 {
		t.Error("it has replaced the newer one")
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteEndpoint(path, older); err != nil {
		t.Errorf("over a damaged file: %v", err)
	}
}

// FuzzJoinFile and FuzzEndpoint: no panic, and what is accepted can be written again.
func FuzzJoinFile(f *testing.F) {
	good, err := json.Marshal(joinFile(newCA(f)))
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{string(good), "", "{}", "null", `{"format":1}`, string(good[:len(good)/2])} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if j, err := parseJoinFile(data); err == nil {
			if err := j.validate(); err != nil || j.Token == "" {
				t.Errorf("%+v was accepted: %v", j, err)
			}
		}
	})
}

func FuzzEndpoint(f *testing.F) {
	good, err := json.Marshal(endpoint(newCA(f)))
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{string(good), "", "{}", "null", `{"format":1,"url":"https://[::1]:1"}`, string(good[:len(good)/2])} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if e, err := parseEndpoint(data); err == nil {
			if err := checkURL(e.URL); err != nil {
				t.Errorf("%+v was accepted: %v", e, err)
			}
		}
	})
}
