package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// secret is a key of the right form for an ID of eight characters.
func secret(id string) string { return "psk-" + id + "-" + strings.Repeat("s", 43) }

func key(id string, change func(*apiv1.Key)) *apiv1.Key {
	hash := sha256.Sum256([]byte(secret(id)))
	k := &apiv1.Key{Id: id, Hash: hash[:], Tenant: "tenant-" + id}
	if change != nil {
		change(k)
	}
	return k
}

func wantError(t *testing.T, w *httptest.ResponseRecorder, status int, code, message string) {
	t.Helper()
	var e struct {
		Error struct {
			Message, Type string
			Param, Code   *string
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
		t.Fatalf("%d %q: %v", w.Code, w.Body, err)
	}
	if w.Code != status || e.Error.Code == nil || *e.Error.Code != code || !strings.Contains(e.Error.Message, message) || e.Error.Type == "" {
		t.Errorf("got %d %s, want %d %s %q", w.Code, w.Body, status, code, message)
	}
	if (status == 429 || status == 503) && w.Header().Get("Retry-After") == "" {
		t.Errorf("%d without Retry-After", status)
	}
}

const plain = `{"model":"m","prompt":"hi","max_tokens":5}`

func TestErrors(t *testing.T) {
	g := newTestGateway(t, 1, func(o *Options) { o.Limits.MaxBody, o.Limits.MaxDepth = 2000, 10 })
	g.apply(&apiv1.WatchResponse{Models: []*apiv1.Model{
		{Name: "queued", Deployment: "q", State: "queued", Reason: "job 17 waits for 4 GPUs", RetryAfter: durationpb.New(90 * time.Second)},
		{Name: "m-lora", Deployment: "d", Parent: "m", State: "ready"},
	}})
	for _, tc := range []struct {
		path, body    string
		status        int
		code, message string
	}{
		{pathChat, `{"model":`, 400, "invalid_json", "byte 9"},
		{pathChat, `[]`, 400, "invalid_json", "an object is wanted"},
		{pathChat, ``, 400, "invalid_json", "a value is missing"},
		{pathChat, `{"model":"m","model":"m"}`, 400, "invalid_json", "a second time"},
		{pathChat, `{"model":"m","x":[[[[[[[[[[[]]]]]]]]]]]}`, 400, "invalid_json", "too deep"},
		{pathChat, `{}`, 400, "missing_model", "/v1/models"},
		{pathChat, `{"model":7}`, 400, "missing_model", ""},
		{pathChat, `{"model":"m","stream":"yes"}`, 400, "invalid_type", "stream"},
		{pathChat, `{"model":"m","stream":true,"stream_options":true}`, 400, "invalid_type", "stream_options"},
		{pathChat, `{"model":"x\u0022y"}`, 404, "model_not_found", `known: "m", "m-lora", "queued"`},
		{pathChat, `{"model":"m","x":"` + strings.Repeat("y", 2000) + `"}`, 413, "request_too_large", "2000 bytes"},
		{pathChat, `{"model":"queued"}`, 503, "queued", `the model "queued" is not ready: queued: job 17 waits for 4 GPUs`},
		{pathChat, `{"model":"m","kv_transfer_params":{}}`, 400, "field_not_allowed", "kv_transfer_params"},
		{pathChat, `{"model":"m","KV_Transfer_Params":{}}`, 400, "field_not_allowed", "KV_Transfer_Params"},
		{pathChat, `{"model":"m","cache\u005f\u017falt":"x"}`, 400, "field_not_allowed", "cache_\u017falt"},
		{pathChat, `{"model":"m","Bootstrap_Room":1}`, 400, "field_not_allowed", "Bootstrap_Room"},
		{pathChat, `{"model":"m","bootstrap_room":5}`, 400, "field_not_allowed", "bootstrap_room"},
		{pathChat, `{"model":"m","cache\u005fsalt":"x"}`, 400, "field_not_allowed", "cache_salt"},
		{pathChat, `{"model":"m","vllm_xargs":{"kv_transfer_params":"x"}}`, 400, "field_not_allowed", "vllm_xargs.kv_transfer_params"},
		{pathCompletions, `{"model":"m","id_slot":0}`, 400, "field_not_allowed", "id_slot"},
		{pathCompletions, `{"model":"m","priority":-5}`, 400, "field_not_allowed", "priority"},
		{"/v1/files", `{}`, 404, "unknown_path", "/v1/files"},
		{"/slots/0", `{}`, 404, "unknown_path", ""},
		{"/v1/models", `{}`, 405, "method_not_allowed", "GET"},
	} {
		w := g.post(tc.path, tc.body)
		wantError(t, w, tc.status, tc.code, tc.message)
	}
	if w := g.post(pathChat, `{"model":"queued"}`); w.Header().Get("Retry-After") != "90" {
		t.Errorf("Retry-After is %q", w.Header().Get("Retry-After"))
	}
	wantError(t, g.post(pathChat, plain, "X-data-parallel-rank", "1"), 400, "field_not_allowed", "X-Data-Parallel-Rank")
	if n := len(g.engines[0].seen()); n != 0 {
		t.Errorf("%d of the bad requests reached the engine", n)
	}
}

func TestKeys(t *testing.T) {
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	g := newTestGateway(t, 1, func(o *Options) { o.RequireKey, o.Now = true, func() time.Time { return now } })
	g.apply(&apiv1.WatchResponse{
		Keys: []*apiv1.Key{
			key("everyone", nil),
			key("onlyqwen", func(k *apiv1.Key) { k.Models = []string{"qwen/*"} }),
			key("expired0", func(k *apiv1.Key) { k.ExpiresAt = timestamppb.New(now) }),
		},
		Models: []*apiv1.Model{{Name: "qwen/8b", Deployment: "d", State: "ready"}},
	})
	for _, tc := range []struct {
		header, value string
		status        int
		code, message string
	}{
		{"", "", 401, "invalid_api_key", "no API key"},
		{"Authorization", "Bearer " + secret("expired0"), 401, "invalid_api_key", "expired"},
		{"Authorization", "Bearer " + secret("nobody00"), 401, "invalid_api_key", "not known"},
		{"Authorization", "Bearer psk-everyone-" + strings.Repeat("x", 43), 401, "invalid_api_key", "not known"},
		{"Authorization", secret("everyone") + "x", 401, "invalid_api_key", "not known"},
		{"Authorization", "Bearer " + secret("onlyqwen"), 404, "model_not_found", `known: "qwen/8b"`},
		{"Authorization", "bearer  " + secret("everyone"), 200, "", ""},
		{"X-Api-Key", secret("everyone"), 200, "", ""},
	} {
		w := g.post(pathCompletions, plain, tc.header, tc.value)
		if tc.status != 200 {
			wantError(t, w, tc.status, tc.code, tc.message)
		} else if w.Code != 200 {
			t.Errorf("%s %s: %d %s", tc.header, tc.value, w.Code, w.Body)
		}
	}
	rec := g.lastRecord()
	if rec.KeyId != "everyone" || rec.Tenant != "tenant-everyone" {
		t.Errorf("record: %v", rec)
	}
	g.apply(&apiv1.WatchResponse{RemovedKeys: []string{"everyone"}})
	wantError(t, g.post(pathCompletions, plain, "X-Api-Key", secret("everyone")), 401, "invalid_api_key", "not known")
}

func TestWithoutKeysRequired(t *testing.T) {
	g := newTestGateway(t, 1, nil)
	for _, shown := range []string{"", "Bearer sk-of-another-service"} {
		if w := g.post(pathCompletions, plain, "Authorization", shown); w.Code != 200 {
			t.Errorf("%q: %d %s", shown, w.Code, w.Body)
		}
		if rec := g.lastRecord(); rec.KeyId != "" || rec.Tenant != anonymousTenant {
			t.Errorf("%q: %v", shown, rec)
		}
	}
	wantError(t, g.post(pathCompletions, plain, "Authorization", "Bearer "+secret("mistyped")), 401, "invalid_api_key", "not known")
}

func TestLimitsOfKeys(t *testing.T) {
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	g := newTestGateway(t, 1, func(o *Options) { o.Now = func() time.Time { return now } })
	g.apply(&apiv1.WatchResponse{Keys: []*apiv1.Key{
		key("requests", func(k *apiv1.Key) { k.RequestsPerMinute = 2 }),
		key("tokens00", func(k *apiv1.Key) { k.TokensPerMinute = 10 }),
		key("atonce00", func(k *apiv1.Key) { k.Concurrency = 1 }),
	}})
	ask := func(id string) *httptest.ResponseRecorder {
		return g.post(pathCompletions, plain, "X-Api-Key", secret(id))
	}

	for range 2 {
		if w := ask("requests"); w.Code != 200 {
			t.Fatal(w.Code, w.Body)
		}
	}
	wantError(t, ask("requests"), 429, "rate_limit_exceeded", "limit of 2 requests per minute is reached: try again in 30s")
	now = now.Add(30 * time.Second)
	if w := ask("requests"); w.Code != 200 {
		t.Error(w.Code, w.Body)
	}

	for i := 0; ask("tokens00").Code == 200; i++ { // each takes 2 + 5 tokens
		if i > 2 {
			t.Fatal("tokens are not counted")
		}
	}
	wantError(t, ask("tokens00"), 429, "rate_limit_exceeded", "10 tokens per minute")

	g.engines[0].fail(fault{cutBytes: 1, hang: true})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r := httptest.NewRequest(http.MethodPost, pathCompletions, strings.NewReader(plain)).WithContext(ctx)
		r.Header.Set("X-Api-Key", secret("atonce00"))
		g.Handler().ServeHTTP(httptest.NewRecorder(), r)
	}()
	for g.member(0).inflight.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	wantError(t, ask("atonce00"), 429, "rate_limit_exceeded", "1 requests at a time")
	cancel()
	<-done
	if w := ask("atonce00"); w.Code != 200 {
		t.Error("the slot of a request that was given up is not free:", w.Code, w.Body)
	}
}

func get(g *testGateway, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	g.Handler().ServeHTTP(w, r)
	return w
}

func TestModels(t *testing.T) {
	g := newTestGateway(t, 1, nil)
	g.apply(&apiv1.WatchResponse{
		Models: []*apiv1.Model{
			{Name: "m/lora", Parent: "m", Deployment: "d", State: "ready", CreatedAt: &timestamppb.Timestamp{Seconds: 77}},
			{Name: "secret", Deployment: "s", State: "starting"},
		},
		Keys: []*apiv1.Key{key("onlyms00", func(k *apiv1.Key) { k.Models = []string{"m*"} })},
	})
	want := `{"object":"list","data":[{"id":"m","object":"model","created":0,"owned_by":"penstock","parent":null,"state":"ready"},` +
		`{"id":"m/lora","object":"model","created":77,"owned_by":"penstock","parent":"m","state":"ready"}]}`
	if w := get(g, "/v1/models", "X-Api-Key", secret("onlyms00")); w.Body.String() != want || w.Code != 200 {
		t.Error(cmp.Diff(want, w.Body.String()))
	}
	if w := get(g, "/v1/models"); !strings.Contains(w.Body.String(), `"secret"`) {
		t.Errorf("without a limit: %s", w.Body)
	}
	if w := get(g, "/v1/models/m/lora"); w.Code != 200 || !strings.HasPrefix(w.Body.String(), `{"id":"m/lora"`) {
		t.Errorf("one model: %d %s", w.Code, w.Body)
	}
	wantError(t, get(g, "/v1/models/secret", "X-Api-Key", secret("onlyms00")), 404, "model_not_found", "secret")
}

func TestHealthReadyMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	g := newTestGateway(t, 1, func(o *Options) { o.Registerer, o.Gatherer, o.OpenMetrics = reg, reg, true })
	if w := get(g, "/health"); w.Code != 200 || w.Body.String() != `{"status":"ok"}` {
		t.Errorf("/health: %d %s", w.Code, w.Body)
	}
	if w := get(g, "/ready"); w.Code != 200 || w.Body.String() != `{"status":"ready"}` {
		t.Errorf("/ready: %d %s", w.Code, w.Body)
	}
	g.member(0).routable.Store(false)
	if w := get(g, "/ready"); w.Code != 503 || strings.Contains(w.Body.String(), "m") {
		t.Errorf("/ready with nothing routable: %d %s", w.Code, w.Body)
	}
	g.post(pathCompletions, plain)
	g.apply(&apiv1.WatchResponse{Keys: []*apiv1.Key{key("metrics0", nil)}})
	for _, tc := range []struct {
		remote, key string
		status      int
	}{{"127.0.0.1:5", "", 200}, {"@", "", 200}, {"192.0.2.1:5", "", 401}, {"192.0.2.1:5", secret("metrics0"), 200}} {
		r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		r.RemoteAddr = tc.remote
		r.Header.Set("X-Api-Key", tc.key)
		w := httptest.NewRecorder()
		g.Handler().ServeHTTP(w, r)
		if w.Code != tc.status || tc.status == 200 && !strings.Contains(w.Body.String(), `penstock_gateway_requests_total{code="503",model="m"} 1`) {
			t.Errorf("/metrics from %s: %d %s", tc.remote, w.Code, w.Body)
		}
	}
}

// TestBodiesPassThrough: engines get what clients wrote, but for what the gateway sets.
func TestBodiesPassThrough(t *testing.T) {
	g := newTestGateway(t, 1, nil)
	salt := string(g.salts.json(anonymousTenant))
	for _, tc := range []struct{ path, body, want string }{
		{
			pathCompletions, `{ "model" : "m", "x":1.10, "big":12345678901234567890, "prompt":"\u00e9", "max_tokens":2 }`,
			`{ "model" : "m", "x":1.10, "big":12345678901234567890, "prompt":"\u00e9", "max_tokens":2,"cache_salt":` + salt + ` }`,
		},
		{pathCompletions, `{"model":"m","priority":null,"max_tokens":2,"cache_salt":null}`, `{"model":"m","max_tokens":2,"cache_salt":` + salt + `}`},
		{
			pathCompletions, `{"model":"m","stream":true,"max_tokens":2}`,
			`{"model":"m","stream":true,"max_tokens":2,"cache_salt":` + salt + `,"stream_options":{"include_usage":true},"return_token_ids":true}`,
		},
		{
			pathCompletions, `{"model":"m","stream":true,"stream_options":{"x":1,"include_usage":false},"return_token_ids":true,"max_tokens":2}`,
			`{"model":"m","stream":true,"stream_options":{"x":1,"include_usage":true},"return_token_ids":true,"max_tokens":2,"cache_salt":` + salt + `}`,
		},
		{
			pathChat, `{"model":"m","stream":true,"tools":[1],"max_tokens":2}`,
			`{"model":"m","stream":true,"tools":[1],"max_tokens":2,"cache_salt":` + salt + `,"stream_options":{"include_usage":true}}`,
		},
		{pathEmbeddings, `{"model":"m","input":"x"}`, `{"model":"m","input":"x"}`},
		{pathTokenize, `{"model":"m","prompt":"x"}`, `{"model":"m","prompt":"x"}`},
	} {
		var got string
		g.engines[0].Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			got = string(b)
			io.WriteString(w, "{}")
		})
		g.post(tc.path, tc.body)
		if got != tc.want {
			t.Errorf("%s: %s", tc.path, cmp.Diff(tc.want, got))
		}
	}
	if string(g.salts.json("a")) == string(g.salts.json("b")) {
		t.Error("two tenants share a salt")
	}
}

func TestHeaders(t *testing.T) {
	g := newTestGateway(t, 1, nil)
	w := g.post(pathCompletions, plain, "X-Request-Id", "mine-1", "Cookie", "a=b", "Penstock-Epoch", "99", "Penstock-Tenant", "root",
		"X-Forwarded-For", "1.2.3.4", "Traceparent", "00-abc-01", "Authorization", "Bearer sk-client")
	got := g.engines[0].headers[0]
	for name := range got {
		switch name {
		case "Accept", "Content-Length", "Content-Type", "Penstock-Epoch", "Penstock-Launch", "Penstock-Request", "Penstock-Tenant", "Traceparent", "X-Request-Id":
		default:
			t.Errorf("the header %s came through: %q", name, got[name])
		}
	}
	id := w.Header().Get("X-Request-Id")
	if !strings.HasPrefix(id, "mine-1.") || got.Get("Penstock-Request") != id || got.Get("Penstock-Epoch") != "1" || got.Get("Penstock-Tenant") != anonymousTenant {
		t.Errorf("id %q, engine got %v", id, got)
	}
	if rec := g.lastRecord(); rec.Id != id {
		t.Errorf("recorded as %s", rec.Id)
	}
	for _, bad := range []string{"", "a b", strings.Repeat("x", 65), "é", "a\x00"} {
		if id := newID(bad); !strings.HasPrefix(id, "req-") || len(id) != 24 {
			t.Errorf("newID(%q) = %q", bad, id)
		}
	}
}

func TestUnknownEngineAndPaths(t *testing.T) {
	g := newTestGateway(t, 1, nil)
	g.apply(&apiv1.WatchResponse{Removed: []string{"launch-0"}})
	g.add(0, jobspecs.LlamaCpp, jobspecs.Mixed)
	wantError(t, g.post(pathResponses, `{"model":"m","input":"x"}`), 404, "path_not_served", "/v1/responses")
	g.apply(&apiv1.WatchResponse{Removed: []string{"launch-0"}})
	g.add(0, "engine-of-tomorrow", jobspecs.Mixed)
	body := `{"model":"m","prompt":"x","stream":true,"max_tokens":3,"temperature":0}`
	expect(t, "unknown engine", g.post(pathCompletions, body).Body.String(), body, 3, 0)
	if got := g.engines[0].seen()[0]; got["stream_options"] != nil || got["cache_salt"] != nil {
		t.Errorf("an unknown engine got %v", got)
	}
}

// TestOverTheNetwork uses a real server with its deadlines: keep-alive, one connection, streams and whole answers in turn.
func TestOverTheNetwork(t *testing.T) {
	g := newTestGateway(t, 2, nil)
	s := httptest.NewUnstartedServer(nil)
	s.Config = g.HTTPServer()
	s.Start()
	defer s.Close()
	for i := range 6 {
		body := fmt.Sprintf(`{"model":"m","prompt":"n%d","max_tokens":12,"temperature":0,"stream":%v}`, i, i%2 == 0)
		resp, err := s.Client().Post(s.URL+pathCompletions, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		got := readAll(t, resp.Body)
		resp.Body.Close()
		if i%2 == 0 {
			expect(t, body, got, body, 12, 0)
			if resp.Header.Get("Content-Type") != "text/event-stream; charset=utf-8" || resp.Header.Get("X-Accel-Buffering") != "no" {
				t.Errorf("header: %v", resp.Header)
			}
			continue
		}
		_, text, _ := generate(promptOf(t, body), 12, 0, nil)
		if !strings.Contains(got, quote(text)) || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %s", body, got)
		}
	}
	if n := g.engines[0].conns.Load() + g.engines[1].conns.Load(); n > 2 {
		t.Errorf("six requests, one after the other, took %d connections to two replicas", n)
	}
}

// TestBodiesThatNeverCome: a request that is refused, or whose body stops in the middle, does not hold its connection.
func TestBodiesThatNeverCome(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, 0, func(o *Options) {
		o.RequireKey, o.Limits.ReadHeader, o.Limits.ReadBody = true, 3*time.Second, 3*time.Second
	})
	g.apply(&apiv1.WatchResponse{Keys: []*apiv1.Key{key("aaaaaaaa", nil)}})
	s := httptest.NewUnstartedServer(nil)
	s.Config = g.HTTPServer()
	s.Start()
	t.Cleanup(s.Close)
	length, chunks := "Content-Length: 100\r\n", "Transfer-Encoding: chunked\r\n"
	for _, c := range []struct {
		name, head string
		status     int
	}{
		{"no key", "POST /v1/completions HTTP/1.1\r\n" + length, 401},
		{"no key, chunks", "POST /v1/completions HTTP/1.1\r\n" + chunks, 401},
		{"no key, metrics", "GET /metrics HTTP/1.1\r\n" + length, 404},
		{"unknown path", "POST /v1/nothing HTTP/1.1\r\n" + length, 404},
		{"wrong method", "PUT /v1/completions HTTP/1.1\r\n" + length, 405},
		{"all options", "OPTIONS * HTTP/1.1\r\n" + length, 404},
		{"a body that stops", "POST /v1/completions HTTP/1.1\r\nAuthorization: Bearer " + secret("aaaaaaaa") + "\r\n" + length, 408},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", s.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, c.head+"Host: x\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(conn) // up to the end of the connection
			if err != nil || !strings.HasPrefix(string(answer), fmt.Sprintf("HTTP/1.1 %d ", c.status)) {
				t.Errorf("%.100q, %v", answer, err)
			}
		})
	}
}

// TestOneTenantsModel: a model that serves one tenant is there for nobody else.
func TestOneTenantsModel(t *testing.T) {
	g := newTestGateway(t, 1, func(o *Options) { o.RequireKey = true })
	g.apply(&apiv1.WatchResponse{
		Models: []*apiv1.Model{{Name: "m", Deployment: "d", State: "ready", Tenant: "tenant-aaaaaaa1"}},
		Keys:   []*apiv1.Key{key("aaaaaaa1", nil), key("bbbbbbb1", nil)},
	})
	if w := g.post(pathCompletions, plain, "Authorization", "Bearer "+secret("aaaaaaa1")); w.Code != http.StatusOK {
		t.Errorf("its own tenant: %d %s", w.Code, w.Body)
	}
	wantError(t, g.post(pathCompletions, plain, "Authorization", "Bearer "+secret("bbbbbbb1")), 404, "model_not_found", "there is none at present")
}
