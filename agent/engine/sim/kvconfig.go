package sim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// KVEventsConfig is vLLM's --kv-events-config.
type KVEventsConfig struct {
	Enable         bool   `json:"enable_kv_cache_events"`
	Publisher      string `json:"publisher"` // "zmq" or "null"
	Endpoint       string `json:"endpoint"`
	ReplayEndpoint string `json:"replay_endpoint"` // empty: no replay
	BufferSteps    int    `json:"buffer_steps"`    // batches kept for replay
	HWM            int    `json:"hwm"`             // messages that may wait to be sent
	MaxQueueSize   int    `json:"max_queue_size"`  // accepted, and not used here
	Topic          string `json:"topic"`
}

// ParseKVEventsConfig reads the JSON of --kv-events-config with vLLM's defaults. An empty string is no events.
func ParseKVEventsConfig(text string) (KVEventsConfig, error) {
	c := KVEventsConfig{Endpoint: "tcp://*:5557", BufferSteps: 10_000, HWM: 100_000, MaxQueueSize: 100_000}
	if text == "" {
		return c, nil
	}
	if err := decodeStrict(text, &c); err != nil {
		return c, fmt.Errorf("KV events config: %w", err)
	}
	if c.Publisher == "" {
		c.Publisher = "null"
		if c.Enable {
			c.Publisher = "zmq"
		}
	}
	return c, c.validate()
}

// on reports whether events are published.
func (c KVEventsConfig) on() bool { return c.Enable && c.Publisher == "zmq" }

func (c KVEventsConfig) validate() error {
	switch {
	case !c.Enable:
		return nil
	case c.Publisher != "zmq" && c.Publisher != "null":
		return fmt.Errorf("KV events config: publisher: must be zmq or null (got %q)", c.Publisher)
	case c.BufferSteps < 1 || c.HWM < 1:
		return fmt.Errorf("KV events config: buffer_steps and hwm must be > 0 (got %d and %d)", c.BufferSteps, c.HWM)
	}
	for name, ep := range map[string]string{"endpoint": c.Endpoint, "replay_endpoint": c.ReplayEndpoint} {
		if ep != "" && !strings.HasPrefix(ep, "tcp://") && !strings.HasPrefix(ep, "ipc://") && !strings.HasPrefix(ep, "inproc://") {
			return fmt.Errorf("KV events config: %s: must begin with tcp://, ipc:// or inproc:// (got %q)", name, ep)
		}
	}
	return nil
}

// FailurePolicy says what becomes of a request whose KV could not be fetched.
type FailurePolicy string

// vLLM's kv_load_failure_policy.
const (
	FailOnLoadFailure      FailurePolicy = "fail"
	RecomputeOnLoadFailure FailurePolicy = "recompute"
)

// KVTransferConfig is what is used here of vLLM's --kv-transfer-config.
type KVTransferConfig struct {
	Connector string        // empty: no transfers
	OnFailure FailurePolicy // default fail
	Lease     time.Duration // how long a prefill keeps blocks for a decode that does not come
	LMCache   bool          // blocks are kept in a store outside: Options.ExternalKV
}

// defaultLease is vLLM's kv_lease_duration.
const defaultLease = 30 * time.Second

// connectorJSON is one connector, or several behind one.
type connectorJSON struct {
	Connector string `json:"kv_connector"`
	OnFailure string `json:"kv_load_failure_policy"`
	Extra     struct {
		LeaseSeconds float64         `json:"kv_lease_duration"`
		Connectors   []connectorJSON `json:"connectors"`
	} `json:"kv_connector_extra_config"`
}

// ParseKVTransferConfig reads the JSON of --kv-transfer-config. An empty string is no transfers. The one connector between
// engines follows NIXL's request protocol and goes by that name too; kv_role says nothing, as with NIXL. LMCache's is there
// as far as its redis:// dialect goes. MultiConnector may join the two.
func ParseKVTransferConfig(text string) (KVTransferConfig, error) {
	c := KVTransferConfig{OnFailure: FailOnLoadFailure, Lease: defaultLease}
	if text == "" {
		return c, nil
	}
	var in connectorJSON
	if err := json.Unmarshal([]byte(text), &in); err != nil {
		return c, fmt.Errorf("KV transfer config: %w", err)
	}
	parts := []connectorJSON{in}
	if in.Connector == "MultiConnector" {
		parts = in.Extra.Connectors
	}
	for _, part := range parts {
		c.add(part)
	}
	return c, c.validate()
}

func (c *KVTransferConfig) add(in connectorJSON) {
	if in.Connector == "LMCacheConnectorV1" {
		c.LMCache = true
		return
	}
	c.Connector = in.Connector
	if in.OnFailure != "" {
		c.OnFailure = FailurePolicy(in.OnFailure)
	}
	if s := in.Extra.LeaseSeconds; s != 0 {
		c.Lease = time.Duration(s * float64(time.Second))
	}
}

// on reports whether KV can be handed over.
func (c KVTransferConfig) on() bool { return c.Connector != "" }

func (c KVTransferConfig) validate() error {
	switch {
	case c.Connector != "" && c.Connector != "NixlConnector" && c.Connector != "SimConnector":
		return fmt.Errorf("KV transfer config: kv_connector: must be SimConnector or, which is the same here, NixlConnector (got %q)", c.Connector)
	case c.OnFailure != FailOnLoadFailure && c.OnFailure != RecomputeOnLoadFailure:
		return fmt.Errorf("KV transfer config: kv_load_failure_policy: must be fail or recompute (got %q)", c.OnFailure)
	case c.Lease <= 0:
		return errors.New("KV transfer config: kv_lease_duration: must be > 0")
	}
	return nil
}

func decodeStrict(text string, into any) error {
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if d.More() {
		return errors.New("more text after the JSON value")
	}
	return nil
}
