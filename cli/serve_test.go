package cli

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/scheduler/identity"
)

// background is a role that runs in this process until it is stopped.
type background struct {
	talk *syncBuffer
	stop func() int // ends it as ctrl-c does, and returns its exit code
}

// start runs a role beside the test.
func (tt *terminal) start(t *testing.T, args ...string) *background {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	b := &background{talk: &syncBuffer{}}
	std := tt.IO
	std.Err, std.Out = b.talk, b.talk
	done := make(chan int, 1)
	go func() { done <- runArgs(ctx, append([]string{"penstock"}, args...), std) }()
	ended := false
	b.stop = func() (code int) {
		if !ended {
			ended = true
			cancel()
			code = <-done
		}
		return code
	}
	t.Cleanup(func() { b.stop() })
	return b
}

// eventually waits for something to become true.
func eventually(t *testing.T, what string, b *background, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s\n%s", what, b.talk)
		}
	}
}

// TestServe runs a real controller and a real gateway in this process and asks them as people do: over the socket, from what
// looks like another host, and over HTTP.
func TestServe(t *testing.T) {
	t.Parallel()
	tt := newTerminal(t, nil)
	tt.Self = "/bin/false" // nothing is started
	serve := tt.start(t, "serve", "--local-nodes", "node-a:2")
	eventually(t, "the controller answers", serve, func() bool { code, _, _ := tt.run("status"); return code == 0 })

	if code, out, _ := tt.run("nodes"); code != 0 || !strings.Contains(out, "node-a") {
		t.Errorf("nodes: exit %d: %s", code, out)
	}
	if code, _, talk := tt.run("serve"); code != ExitError || !strings.Contains(talk, "penstock serve --stop") {
		t.Errorf("a second controller: exit %d: %s", code, talk)
	}
	gateway := tt.start(t, "gateway", "--name", "gw-1")
	eventually(t, "the gateway is seen", gateway, func() bool {
		_, out, _ := tt.run("status", "--wide")
		return strings.Contains(out, "gateway gw-1  http://127.0.0.1:")
	})
	_, secret, _ := tt.run("key", "create", "me")
	url := gatewayURL(t, tt)
	eventually(t, "the key works at the second gateway", gateway, func() bool {
		return models(t, url, "Bearer "+strings.TrimSpace(secret)) == http.StatusOK
	})
	if got := models(t, url, "Bearer psk-x"); got != http.StatusUnauthorized {
		t.Errorf("a made-up key: %d", got)
	}
	fromAnotherHost(t, tt)
	if code := gateway.stop(); code != 0 {
		t.Errorf("the gateway ended with %d: %s", code, gateway.talk)
	}
	if code := serve.stop(); code != 0 {
		t.Errorf("the controller ended with %d: %s", code, serve.talk)
	}
	if code, _, talk := tt.run("status"); code != ExitError || !strings.Contains(talk, "no controller answers") {
		t.Errorf("afterwards: exit %d: %s", code, talk)
	}
}

// gatewayURL is where gw-1 is reached.
func gatewayURL(t *testing.T, tt *terminal) string {
	t.Helper()
	_, out, _ := tt.run("status", "--json")
	var st struct{ Gateways []struct{ URL string } }
	if err := json.Unmarshal([]byte(out), &st); err != nil || len(st.Gateways) != 1 {
		t.Fatalf("%v: %s", err, out)
	}
	return st.Gateways[0].URL
}

// models asks a gateway for its models and returns the status.
func models(t *testing.T, url, authorization string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/models", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", authorization)
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// fromAnotherHost asks over mTLS with the owner's certificate, which needs it whole and closed to others.
func fromAnotherHost(t *testing.T, tt *terminal) {
	t.Helper()
	state := tt.env["PENSTOCK_STATE_DIR"]
	path := filepath.Join(state, endpointFile)
	e, err := identity.ReadEndpoint(path)
	if err != nil {
		t.Fatal(err)
	}
	here := e.Hostname
	e.Hostname = "elsewhere"
	if err := identity.WriteEndpoint(path, e); err != nil {
		t.Fatal(err)
	}
	if code, out, talk := tt.run("key", "list"); code != 0 || !strings.Contains(out, "me") {
		t.Errorf("over mTLS: exit %d: %s%s", code, out, talk)
	}
	owner := filepath.Join(state, ownerFile)
	if err := os.Chmod(owner, 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _, talk := tt.run("key", "list"); code != ExitError || !strings.Contains(talk, "chmod") {
		t.Errorf("with a certificate that others can read: exit %d: %s", code, talk)
	}
	if err := os.Remove(owner); err != nil {
		t.Fatal(err)
	}
	if code, _, talk := tt.run("key", "list"); code != ExitError || !strings.Contains(talk, "owner's certificate") {
		t.Errorf("without a certificate: exit %d: %s", code, talk)
	}
	e.Hostname = here
	if err := identity.WriteEndpoint(path, e); err != nil {
		t.Fatal(err)
	}
}
