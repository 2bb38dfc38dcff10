package sim

import (
	"strings"
	"testing"
	"time"
)

func TestOptionsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	if err := fast().Validate(); err != nil {
		t.Errorf("good options: %v", err)
	}
	for want, change := range map[string]func(*Options){
		"model: must not be empty":                                     func(o *Options) { o.Model = "" },
		"block size: must be > 0 (got 0)":                              func(o *Options) { o.BlockSize = 0 },
		"max model length: 8192 tokens do not fit 10 KV blocks of 16":  func(o *Options) { o.NumGPUBlocks = 10 },
		"speedup: must be > 0 (got 0)":                                 func(o *Options) { o.Speedup = 0 },
		"the system allows 107":                                        func(o *Options) { o.UDS = strings.Repeat("x", 108) },
		"node rank: must be from 0 to 1 (got 2)":                       func(o *Options) { o.Nodes, o.NodeRank = 2, 2 },
		"headless: every rank but 0":                                   func(o *Options) { o.Nodes, o.NodeRank = 2, 1 },
		`KV events form: must be map or array (got "xml")`:             func(o *Options) { o.KVEventsForm = "xml" },
		`LoRA module "test": needs a name of its own`:                  func(o *Options) { o.ServedModelNames, o.LoRAModules = []string{"test"}, []LoRAModule{{"test", "p"}} },
		"KV transfer config: kv_lease_duration: must be > 0":           func(o *Options) { o.KVTransfer.Lease = -1 },
		"KV events config: buffer_steps and hwm must be > 0 (got 0 an": func(o *Options) { o.KVEvents.Enable, o.KVEvents.Publisher, o.KVEvents.BufferSteps = true, "zmq", 0 },
	} {
		if err := fast(change).Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	all := Options{}
	if n := len(strings.Split(all.Validate().Error(), "\n")); n < 10 {
		t.Errorf("empty options have %d problems: not all at once", n)
	}
}

func TestParseKVEventsConfig(t *testing.T) {
	t.Parallel()
	c, err := ParseKVEventsConfig(`{"enable_kv_cache_events":true,"publisher":"zmq","endpoint":"ipc:///tmp/e","replay_endpoint":"ipc:///tmp/r","topic":"kv@x"}`)
	if err != nil || !c.on() || c.Endpoint != "ipc:///tmp/e" || c.ReplayEndpoint != "ipc:///tmp/r" || c.Topic != "kv@x" || c.BufferSteps != 10_000 || c.HWM != 100_000 {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := ParseKVEventsConfig(""); err != nil || c.on() {
		t.Errorf("nothing: %+v, %v", c, err)
	}
	if c, err := ParseKVEventsConfig(`{"enable_kv_cache_events":true}`); err != nil || !c.on() || c.Endpoint != "tcp://*:5557" {
		t.Errorf("defaults: %+v, %v", c, err)
	}
	for _, bad := range []string{"{", `{"enabled":true}`, `{"enable_kv_cache_events":true,"publisher":"nats"}`, `{"enable_kv_cache_events":true,"endpoint":"5557"}`, `{} {}`} {
		if _, err := ParseKVEventsConfig(bad); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

func TestParseKVTransferConfig(t *testing.T) {
	t.Parallel()
	c, err := ParseKVTransferConfig(`{"kv_connector":"NixlConnector","kv_role":"kv_both","kv_load_failure_policy":"recompute","kv_connector_extra_config":{"backends":["UCX"],"kv_lease_duration":5}}`)
	if err != nil || !c.on() || c.OnFailure != RecomputeOnLoadFailure || c.Lease != 5*time.Second {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := ParseKVTransferConfig(`{"kv_connector":"NixlConnector"}`); err != nil || c.OnFailure != FailOnLoadFailure || c.Lease != 30*time.Second {
		t.Errorf("defaults: %+v, %v", c, err)
	}
	for _, bad := range []string{"{", `{"kv_connector":"OffloadingConnector"}`, `{"kv_load_failure_policy":"shrug"}`} {
		if _, err := ParseKVTransferConfig(bad); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}
