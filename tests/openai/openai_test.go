// Package openai runs the npm openai client against the gateway of a real installation.
package openai

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/installation"
)

const deployment = `apiVersion: penstock/v1
name: web
model: {id: tiny}
engine: {kind: sim, args: [--speedup, "10"]}
roles:
  mixed: {replicas: 2}
`

func TestOpenAIClient(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed: apt-get install nodejs npm")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	install(ctx, t)
	in := installation.ForTest(t)
	path, err := in.Write("web.yaml", deployment)
	if err != nil {
		t.Fatal(err)
	}
	in.MustRun(ctx, t, "serve", "--detach")
	in.MustRun(ctx, t, "run", "--timeout", "60s", path)
	client, err := in.Connect(ctx, "npm")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, node, "client.mjs")
	cmd.Env = append(os.Environ(), "OPENAI_BASE_URL="+client.URL, "OPENAI_API_KEY="+client.Key, "MODEL=tiny")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if n := strings.Count(string(out), "ok "); n != 8 {
		t.Errorf("%d of 8 steps ran:\n%s", n, out)
	}
	// The aborted stream must not go on in the engine.
	if _, err := in.Until(ctx, "no request runs any more", installation.Idle); err != nil {
		t.Error(err)
	}
}

// install gets the client of package-lock.json, once.
func install(ctx context.Context, t *testing.T) {
	t.Helper()
	if _, err := os.Stat(filepath.Join("node_modules", "openai", "package.json")); err == nil {
		return
	}
	out, err := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts").CombinedOutput()
	if err != nil {
		t.Skipf("npm ci: %v: %.300s", err, out)
	}
}
