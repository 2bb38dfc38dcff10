package engine

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/jobspecs"
	spec "github.com/penstock/penstock/jobspecs/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve answers on a unix socket and returns a Reader of it.
func serve(t *testing.T, o Options, h http.Handler) *Reader {
	t.Helper()
	dir, err := os.MkdirTemp("", "pse") // t.TempDir holds the test's name and may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	o.Socket = filepath.Join(dir, "e.sock")
	l, err := net.Listen("unix", o.Socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(h)
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	r := New(o)
	t.Cleanup(r.Close)
	return r
}

var vllmTraits = spec.Traits{
	HealthPath: "/health", ModelsPath: "/v1/models", MetricsPath: "/metrics", Metrics: vllmNames,
}

func TestHealthTellsLoadingFromNobody(t *testing.T) {
	t.Parallel()
	r := serve(t, Options{Kind: jobspecs.VLLM, Traits: vllmTraits}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"error":{"message":"Loading model"}}`, http.StatusServiceUnavailable)
	}))
	var status *StatusError
	if err := r.Health(t.Context()); !errors.As(err, &status) || status.Status != 503 || !strings.Contains(err.Error(), "Loading model") {
		t.Errorf("loading engine: %v", err)
	}
	nobody := New(Options{Traits: vllmTraits, Socket: filepath.Join(t.TempDir(), "none")})
	if err := nobody.Health(t.Context()); err == nil || errors.As(err, &status) && status.Status == 0 {
		t.Errorf("no engine: %v", err)
	}
}

func TestHealthEndsWithItsContext(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	r := serve(t, Options{Traits: vllmTraits}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer close(hang)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.Health(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an engine that accepts and hangs: %v", err)
	}
}

func TestModels(t *testing.T) {
	t.Parallel()
	r := serve(t, Options{Traits: vllmTraits}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, sample(t, "llama-models.json"))
	}))
	names, err := r.Models(t.Context())
	if err != nil || len(names) != 1 || names[0] != "tiny.gguf" {
		t.Errorf("models %q, %v", names, err)
	}
}

func TestTokenFallsBackToEmbeddings(t *testing.T) {
	t.Parallel()
	completions := 0
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/completions", func(w http.ResponseWriter, _ *http.Request) {
		completions++
		http.Error(w, "The model does not support Completions API", http.StatusBadRequest)
	})
	mux.HandleFunc("/v1/embeddings", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"data":[{"embedding":[0.1,0.2]}]}`)
	})
	r := serve(t, Options{Traits: vllmTraits}, mux)
	for range 2 {
		if err := r.Token(t.Context(), "m"); err != nil {
			t.Fatal(err)
		}
	}
	if completions != 1 {
		t.Errorf("completions asked %d times, want once: the way that works is remembered", completions)
	}
}

func TestTokenErrors(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		completions, embeddings int
		want                    string
	}{
		"overloaded is no reason to try embeddings": {503, 200, "answers 503 to /v1/completions"},
		"neither is served":                         {404, 404, "answers 404 to /v1/embeddings"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mux := http.NewServeMux()
			mux.HandleFunc("/v1/completions", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(test.completions) })
			mux.HandleFunc("/v1/embeddings", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(test.embeddings) })
			err := serve(t, Options{Traits: vllmTraits}, mux).Token(t.Context(), "m")
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestTokenOfADisaggregatedSGLang(t *testing.T) {
	t.Parallel()
	traits := vllmTraits
	traits.Disaggregation = spec.Bootstrap
	var got map[string]any
	r := serve(t, Options{Traits: traits, Role: jobspecs.Prefill}, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if err := json.NewDecoder(q.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(w, `{"choices":[{"text":"x"}]}`)
	}))
	if err := r.Token(t.Context(), "m"); err != nil || got["bootstrap_host"] != fakeBootstrapHost {
		t.Errorf("sent %v, %v", got, err)
	}
}

func TestLoadOfLlamaServer(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, sample(t, "llama-metrics-busy.txt"))
	})
	mux.HandleFunc("/slots", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, sample(t, "llama-slots-busy.json"))
	})
	r := serve(t, Options{Kind: jobspecs.LlamaCpp, Traits: spec.Traits{MetricsPath: "/metrics", Metrics: llamaNames}}, mux)
	load, kv, err := r.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if load.GetRunning() != 2 || load.GetAt() == nil || kv.GetQueriedTokensTotal() != 131+166 || kv.GetCapacityTokens() != 32768 {
		t.Errorf("load %v, kv %v", load, kv)
	}
}

func TestLoadKeepsWhatIsKnown(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, sample(t, "llama-metrics-busy.txt"))
	})
	r := serve(t, Options{Kind: jobspecs.LlamaCpp, Traits: spec.Traits{MetricsPath: "/metrics", Metrics: llamaNames}}, mux)
	load, kv, err := r.Load(t.Context())
	if err == nil || load.GetRunning() != 2 || kv.Usage != nil {
		t.Errorf("without /slots: load %v, kv %v, %v", load, kv, err)
	}
	none := New(Options{Traits: spec.Traits{}})
	if _, _, err := none.Load(t.Context()); !errors.Is(err, ErrNoMetrics) {
		t.Errorf("engine without metrics: %v", err)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	r := serve(t, Options{Traits: vllmTraits}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		chunk := make([]byte, 1<<20)
		for range 2 * maxBody / len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	if _, err := r.Models(t.Context()); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("an endless answer: %v", err)
	}
}

func TestKeyOverTCP(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("Authorization") != "Bearer s3cret" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer srv.Close()
	address := strings.TrimPrefix(srv.URL, "http://")
	for key, ok := range map[string]bool{"s3cret": true, "": false} {
		r := New(Options{Traits: vllmTraits, Address: address, Key: key})
		defer r.Close()
		if err := r.Health(t.Context()); (err == nil) != ok {
			t.Errorf("key %q: %v", key, err)
		}
	}
	h := http.Header{"Authorization": {"Bearer of-the-client"}}
	New(Options{}).Authorize(h)
	if h.Get("Authorization") != "" {
		t.Error("a client's key reaches an engine that has none")
	}
}

func TestEveryConnectionIsChecked(t *testing.T) {
	t.Parallel()
	foreign := errors.New("not ours")
	o := Options{Traits: vllmTraits, Check: func(context.Context, net.Conn) error { return foreign }}
	r := serve(t, o, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("asked a listener that is not ours") }))
	if err := r.Health(t.Context()); !errors.Is(err, foreign) {
		t.Errorf("got %v", err)
	}
}
