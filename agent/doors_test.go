package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/penstock/penstock/agent/engine/sim"
	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/keyring"
)

// doorYAML is a deployment of the simulated engine whose KV goes through the RESP door to these tiers.
func doorYAML(tiers string) string {
	return "apiVersion: penstock/v1\nname: d\nmodel: {id: test-model}\nengine: {kind: sim}\nroles: {mixed: {}}\nkv: " + tiers + "\n"
}

const doorPrompt = "The same long conversation, which one job has begun and another one goes on with. It has more than a few blocks, " +
	"so that there is something to keep: the penstock carries the falling water, and the turbine waits for it in the evening."

// told is what an engine answered.
type told struct {
	Choices []struct{ Text string }
	Usage   struct {
		Prompt  int `json:"prompt_tokens"`
		Details struct {
			Cached int `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
	}
}

// complete asks a replica for a tenant.
func complete(t *testing.T, a *agentUnderTest, tenant string) (got told) {
	t.Helper()
	p := portUnderTest{url: "https://" + a.w.controller.state(a.rank).GetIdentity().GetAddress()}
	body := fmt.Sprintf(`{"model":"test-model","prompt":%q,"max_tokens":60,"temperature":0}`, doorPrompt)
	resp, err := p.post(t, clientOf(t, a.w.ca, asGateway), "/v1/completions", body, func(r *http.Request) {
		r.Header.Set(headerLaunch, a.w.launch)
		r.Header.Set(headerTenant, tenant)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &got); err != nil || resp.StatusCode != 200 || len(got.Choices) != 1 {
		t.Fatalf("%s: %s (%v)", resp.Status, text, err)
	}
	if want := sim.Text(sim.Generate(sim.FingerprintOf("test-model"), sim.Tokenizer{}.Encode(doorPrompt), 60)); got.Choices[0].Text != want {
		t.Errorf("the answer is %q, want %q", got.Choices[0].Text, want)
	}
	return got
}

// doorReplica starts a replica on a node of its own and waits until it serves.
func doorReplica(t *testing.T, tiers string) *agentUnderTest {
	t.Helper()
	w := newWorld(t, "")
	w.controller.yaml = doorYAML(tiers)
	return w.start(selfIsSim(t)).reach(started)
}

// stored waits until blocks that came through the door are in a tier.
func stored(t *testing.T, a *agentUnderTest, tier string, n float64) {
	t.Helper()
	eventually(t, "blocks are in tier "+tier, func() bool {
		families, err := a.opts.Registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() == "penstock_kv_puts_total" && m.GetLabel()[0].GetValue() == tier && m.GetCounter().GetValue() >= n {
					return true
				}
			}
		}
		return false
	})
}

// TestKVOutlivesTheReplica: what one replica has read, the next one finds by its door: on the same node's disk after a kill, and
// in the object store from another node.
func TestKVOutlivesTheReplica(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tier  string
		disks [2]string // folders of the first and the second replica
	}{
		"disk":   {"disk", [2]string{"a", "a"}},
		"object": {"object", [2]string{"a", "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			key := filepath.Join(dir, "keys")
			_, line := keyring.New()
			if err := os.WriteFile(key, []byte(line+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			tiers := func(disk string) string {
				yaml := fmt.Sprintf("{host: 64MiB, keyFile: %s, disk: {path: %s, size: 256MiB}", key, filepath.Join(dir, disk))
				if c.tier == "object" {
					yaml += ", object: {url: 'file://" + filepath.Join(dir, "o") + "'}"
				}
				return yaml + "}"
			}
			first := doorReplica(t, tiers(c.disks[0]))
			cold := complete(t, first, "ann")
			if cold.Usage.Details.Cached != 0 {
				t.Errorf("%d tokens are cached before anything was asked", cold.Usage.Details.Cached)
			}
			blocks := cold.Usage.Prompt / 16
			stored(t, first, c.tier, float64(2*blocks)) // bytes and metadata
			first.Drain("the job ends", 0)
			if err := first.wait(); err != nil {
				t.Fatal(err)
			}

			second := doorReplica(t, tiers(c.disks[1]))
			warm := complete(t, second, "ann")
			if got, want := warm.Usage.Details.Cached, (cold.Usage.Prompt-1)/16*16; got != want {
				t.Errorf("%d of %d prompt tokens come from the tiers, want %d", got, cold.Usage.Prompt, want)
			}
			if log := first.log.String() + second.log.String(); strings.Contains(log, doorPrompt[:20]) {
				t.Error("the log holds the prompt")
			}
		})
	}
}

// TestDoorPartsTenantsAndEnds: another tenant's same prompt finds nothing in the tiers, and a killed engine's door and
// credentials are gone with it, while its blocks are not.
func TestDoorPartsTenantsAndEnds(t *testing.T) {
	t.Parallel()
	a := doorReplica(t, "{host: 64MiB}")
	cold := complete(t, a, "ann")
	stored(t, a, "host", float64(2*(cold.Usage.Prompt/16)))
	killRank(t, a.w.launch, 0) // its own cache is gone
	eventually(t, "the engine serves again", func() bool {
		h := a.w.controller.state(0).GetHealth()
		return h.GetPhase() == started && h.GetEngineStarts() == 2
	})
	if other := complete(t, a, "bob"); other.Usage.Details.Cached != 0 {
		t.Errorf("bob is served %d tokens that ann has asked for", other.Usage.Details.Cached)
	}
	sockets, err := filepath.Glob(filepath.Join(a.w.runtime, "*", "kv*.sock"))
	if err != nil || len(sockets) != 1 {
		t.Errorf("doors %v, want that of the second start alone (%v)", sockets, err)
	}
	for _, s := range sockets {
		if info, err := os.Stat(s); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", s, info.Mode(), err)
		}
	}
}

func TestWithTenant(t *testing.T) {
	t.Parallel()
	const field = "lmcache.tag.tenant"
	ann, err := withTenant([]byte(`{"model":"m"}`), field, "ann")
	if err != nil {
		t.Fatal(err)
	}
	tag := func(body []byte) string {
		var v struct {
			Params map[string]any `json:"kv_transfer_params"`
		}
		if err := json.Unmarshal(body, &v); err != nil {
			t.Fatal(err)
		}
		s, _ := v.Params[field].(string)
		return s
	}
	if len(tag(ann)) != 32 || strings.ContainsAny(tag(ann), "@%/") {
		t.Errorf("tag %q", tag(ann))
	}
	for name, body := range map[string]string{
		"forged": `{"kv_transfer_params":{"lmcache.tag.tenant":"x","do_remote_decode":true}}`, "null": `{"kv_transfer_params":null}`,
	} {
		got, err := withTenant([]byte(body), field, "ann")
		if err != nil || tag(got) != tag(ann) {
			t.Errorf("%s: %s (%v)", name, got, err)
		}
		if name == "forged" && !strings.Contains(string(got), `"do_remote_decode":true`) {
			t.Errorf("another field is gone: %s", got)
		}
	}
	if bob, _ := withTenant([]byte(`{}`), field, "bob"); tag(bob) == tag(ann) {
		t.Error("two tenants have one tag")
	}
	if _, err := withTenant([]byte(`[1]`), field, "ann"); err == nil {
		t.Error("no object was tagged")
	}
}

// filesRun is a run of an engine that keeps its KV in files, as far as that goes.
func filesRun(t *testing.T, model, disk, object string) *run {
	t.Helper()
	d, err := jobspecs.Parse("f.yaml", fmt.Appendf(nil, `apiVersion: penstock/v1
name: d
model: {path: %s, servedName: m}
engine: {kind: vllm}
roles: {mixed: {gpus: 1}}
kv: {connector: files, host: 1GiB, disk: {path: %s, size: 1GiB}, object: {url: 'file://%s'}}
`, model, disk, object))
	if err != nil {
		t.Fatal(err)
	}
	r := &run{agent: &Agent{metrics: newMetrics(prometheus.NewRegistry())}, adm: &admission{deployment: d, role: jobspecs.Mixed}, log: zerolog.Nop()}
	if r.kv = r.openKV(t.Context()); r.kv == nil {
		t.Fatal("no tiers")
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.kv.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		r.closeKV()
	})
	return r
}

// TestFilesOutliveTheNode: blocks that an engine has written as files on one node are there for the engine of another node
// before it asks, if it loads the same weights, and for no engine with others.
func TestFilesOutliveTheNode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	model := filepath.Join(dir, "model")
	if err := os.WriteFile(model, []byte("weights"), 0o600); err != nil {
		t.Fatal(err)
	}
	const name = "m_abc_r0/0a1/b2_g0/x.bin"
	first := filesRun(t, model, filepath.Join(dir, "a"), filepath.Join(dir, "o"))
	o, err := first.openDoor(1, first.weights())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(o.access.Folder, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("kv bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, time.Now(), time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	end := first.serveDoor(t.Context(), &engineRun{door: o})
	eventually(t, "block and list are in the object tier", func() bool {
		for _, tier := range first.kv.Store().Stats().Tiers {
			if tier.Tier == kvstore.Object && tier.Puts >= 2 {
				return true
			}
		}
		return false
	})
	end()
	first.kv.Flush(t.Context())

	second := filesRun(t, model, filepath.Join(dir, "b"), filepath.Join(dir, "o"))
	if o, err = second.openDoor(1, second.weights()); err != nil {
		t.Fatal(err)
	}
	defer second.serveDoor(t.Context(), &engineRun{door: o})()
	eventually(t, "the block is on the other node", func() bool {
		got, err := os.ReadFile(filepath.Join(o.access.Folder, name))
		return err == nil && string(got) == "kv bytes"
	})
	if err := os.WriteFile(model, []byte("others!"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := second.admitKV(t.Context(), &engineRun{door: o, weights: "what it was"}); !errors.Is(err, errOtherWeights) {
		t.Errorf("an engine whose weights changed is let go on: %v", err)
	}
	other, err := second.openDoor(2, second.weights())
	if err != nil {
		t.Fatal(err)
	}
	defer other.close()
	if other.access.Folder == o.access.Folder {
		t.Error("two models share a folder")
	}
}
