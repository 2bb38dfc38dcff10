package attack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/installation"
)

// attackAsTenant: the attacker has got a key of its own, for the victim's gateway. It must get its own answers, and
// nothing of anybody else's, nor any hold on engines.
func attackAsTenant(t *testing.T, s *siege) {
	key := s.victim.MustRun(t.Context(), t, "key", "create", "mallory")
	limited := s.victim.MustRun(t.Context(), t, "key", "create", "--models", "large-*", "mallory-limited")
	args := tenantArgs{URLs: []string{s.client.URL, s.second}, Key: key, Limited: limited, Prompt: s.prompt}
	s.awaitKey(t, args.URLs, key, http.StatusOK)
	s.fails(t, "steer engines", args, "answered 400")
	s.fails(t, "use models that the key has not", args, "answered 404", "not listed")
	s.probeCache(t, args)
	s.forgeHeaders(t, args)
	s.victim.MustRun(t.Context(), t, "key", "revoke", "mallory")
	s.awaitKey(t, args.URLs, key, http.StatusUnauthorized)
}

type tenantArgs struct {
	URLs                 []string
	Key, Limited, Prompt string
}

// awaitKey waits until all gateways know what became of a key.
func (s *siege) awaitKey(t *testing.T, urls []string, key string, status int) {
	t.Helper()
	for _, u := range urls {
		waitFor(t, fmt.Sprintf("%s answers %d to the key", u, status), func() bool {
			got, _, err := fetch(http.MethodGet, u+"/models", key, "", nil)
			return err == nil && got == status
		})
	}
}

// fetch makes one request as a client would.
func fetch(method, at, key, body string, header map[string]string) (status int, answer http.Header, err error) {
	status, answer, _, err = fetchBody(method, at, key, body, header)
	return status, answer, err
}

func fetchBody(method, at, key, body string, header map[string]string) (status int, answer http.Header, text string, err error) {
	ctx, cancel := context.WithTimeout(timeless, soon)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, at, strings.NewReader(body))
	if err != nil {
		return 0, nil, "", err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, resp.Header, string(b), err
}

func init() {
	tricks["steer engines"] = steer
	tricks["use models that the key has not"] = useOtherModels
}

func chatBody(prompt, more string) string {
	text, _ := json.Marshal(prompt)
	return fmt.Sprintf(`{"model":"tiny","messages":[{"role":"user","content":%s}],"max_tokens":4,"temperature":0%s}`, text, more)
}

func steer(in []byte, n *notes) error {
	var args tenantArgs
	if err := json.Unmarshal(in, &args); err != nil {
		return err
	}
	fetchKV := `{"do_remote_prefill":true,"remote_engine_id":"x","remote_request_id":"x","remote_host":"127.0.0.1","remote_port":1,"remote_block_ids":[[1]]}`
	fields := map[string]string{
		"kv_transfer_params": fetchKV, "ec_transfer_params": "{}", "disaggregated_params": `{"request_type":"context_only"}`,
		"cache_salt": `"victim"`, "id_slot": "0", "priority": "-1", "data_parallel_rank": "0", "bootstrap_host": `"127.0.0.1"`, "bootstrap_port": "1",
		"bootstrap_room": "1", "request_id": `"mine"`, `cache\u005fsalt`: `"victim"`, `\u006bv_transfer_params`: fetchKV,
		"KV_Transfer_Params": fetchKV, "Cache_Salt": `"victim"`, "PRIORITY": "1", "Bootstrap_Host": `"127.0.0.1"`,
		"vllm_xargs": `{"kv_transfer_params":{}}`, `vllm\u005fxargs`: `{"cache_salt":"x"}`, "VLLM_XARGS": `{"cache_salt":"x"}`,
	}
	for _, u := range args.URLs {
		for field, value := range fields {
			status, _, err := fetch(http.MethodPost, u+"/chat/completions", args.Key, chatBody("hello", fmt.Sprintf(`,"%s":%s`, field, value)), nil)
			n.try("set the field "+field, u, statusError(status, err))
		}
		twice := `,"user":"a","user":"b"`
		status, _, err := fetch(http.MethodPost, u+"/chat/completions", args.Key, chatBody("hello", twice), nil)
		n.try("send a field twice", u, statusError(status, err))
		status, _, err = fetch(http.MethodPost, u+"/chat/completions", args.Key, chatBody("hello", ""), map[string]string{"X-Data-Parallel-Rank": "0"})
		n.try("set the header X-Data-Parallel-Rank", u, statusError(status, err))
	}
	return nil
}

func statusError(status int, err error) error {
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("answered %d", status)
	}
	return err
}

func useOtherModels(in []byte, n *notes) error {
	var args tenantArgs
	if err := json.Unmarshal(in, &args); err != nil {
		return err
	}
	for _, u := range args.URLs {
		for what, more := range map[string]string{"ask": "", "ask with the model in capitals": `,"MODEL":"large-1"`} {
			status, _, err := fetch(http.MethodPost, u+"/chat/completions", args.Limited, chatBody("hello", more), nil)
			n.try(what, u, statusError(status, err))
		}
		status, _, err := fetch(http.MethodGet, u+"/models/tiny", args.Limited, "", nil)
		n.try("look at the model", u, statusError(status, err))
		_, _, text, err := fetchBody(http.MethodGet, u+"/models", args.Limited, "", nil)
		if err == nil && !strings.Contains(text, "tiny") {
			err = errors.New("not listed")
		}
		n.try("list the model", u, err)
	}
	return nil
}

// probeCache: who sends another's prompt must not see, by a hit in the engine's cache, that somebody has sent it before.
func (s *siege) probeCache(t *testing.T, args tenantArgs) {
	t.Helper()
	cached := func(u, key string) int {
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		defer cancel()
		c := installation.Client{URL: u, Key: key}
		a, err := c.Chat(ctx, "tiny", []installation.Message{{Role: "user", Content: args.Prompt}}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return a.Cached
	}
	hits := 0
	for range 20 { // then both replicas know the victim's prompt: the choice between two idle ones is a coin
		hits = cached(s.client.URL, s.client.Key)
	}
	if hits == 0 {
		t.Error("control: the victim's own prompt is not in the cache")
	}
	s.tried++
	got := cached(s.client.URL, args.Key)
	t.Logf("tried as the attacker: send the victim's prompt: %d tokens come from the cache", got)
	if got > 0 {
		t.Errorf("HOLE: the cache tells that somebody has sent this prompt: %d tokens", got)
	}
	own := 0
	for range 20 {
		own = max(own, cached(s.client.URL, args.Key))
	}
	if own == 0 {
		t.Error("control: the attacker's own prompt is not in the cache, so that its first miss shows nothing")
	}
}

// forgeHeaders: what stands in Penstock's own headers comes from the gateway and from nobody else.
func (s *siege) forgeHeaders(t *testing.T, args tenantArgs) {
	t.Helper()
	victimID := s.lastRequest(t)
	forged := map[string]string{
		"Penstock-Launch": s.replicas()[0].Launch, "Penstock-Epoch": "999", "Penstock-Tenant": "victim", "Penstock-Request": "forged",
		"X-Request-Id": victimID, "X-Forwarded-For": "10.0.0.1",
	}
	for _, u := range args.URLs {
		for range 4 { // to both replicas
			s.tried++
			status, header, err := fetch(http.MethodPost, u+"/chat/completions", args.Key, chatBody("hello", ""), forged)
			if err != nil || status != http.StatusOK {
				t.Fatalf("HOLE: forged headers came through: %d, %v", status, err)
			}
			id := header.Get("X-Request-Id")
			for name := range header {
				if strings.HasPrefix(name, "Penstock-") || name == "Server" {
					t.Errorf("HOLE: the answer shows the inside: %s", name)
				}
			}
			r := s.why(t, id)
			if r.KeyID == "" || r.KeyID == s.keyID() || r.Tenant == "victim" || !strings.HasPrefix(r.ID, victimID+".") {
				t.Errorf("HOLE: the request with forged headers is on record as %+v", r)
			}
		}
	}
	if r := s.why(t, victimID); r.ID != victimID || r.KeyID != s.keyID() {
		t.Errorf("HOLE: the attacker's request hides the victim's: %+v", r)
	}
	t.Log("tried as the attacker: set Penstock-Launch, -Epoch, -Tenant, -Request, X-Request-Id, X-Forwarded-For: all without effect")
}

func (s *siege) keyID() string {
	id, _, _ := strings.Cut(strings.TrimPrefix(s.client.Key, "psk-"), "-")
	return id
}

// record is what `penstock why --json` says of a request, as far as it matters here.
type record struct {
	ID     string `json:"id"`
	KeyID  string `json:"key_id"`
	Tenant string `json:"tenant"`
}

// lastRequest makes a request of the victim's and returns its ID once it is on record.
func (s *siege) lastRequest(t *testing.T) string {
	t.Helper()
	status, header, err := fetch(http.MethodPost, s.client.URL+"/chat/completions", s.client.Key, chatBody("hello", ""), nil)
	if err != nil || status != http.StatusOK {
		t.Fatalf("control: %d, %v", status, err)
	}
	return header.Get("X-Request-Id")
}

// why asks for a request until it is on record.
func (s *siege) why(t *testing.T, id string) record {
	t.Helper()
	for end := time.Now().Add(soon); ; time.Sleep(100 * time.Millisecond) {
		var doc struct{ Record record }
		text := s.runVictim(t, "why", "--json", id)
		err := json.Unmarshal([]byte(text), &doc)
		if err == nil && doc.Record.ID != "" {
			return doc.Record
		}
		if time.Now().After(end) {
			t.Fatalf("request %s is not on record: %v: %s", id, err, text)
		}
	}
}
