package tests

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/penstock/penstock/agent"
	_ "github.com/penstock/penstock/cli" // the program is built apart: so a change of it makes older results of these tests void
	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/engine"
	"github.com/penstock/penstock/nomad"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/fleet"
	"github.com/penstock/penstock/scheduler/gateway"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/ledger"
	"github.com/penstock/penstock/scheduler/reconcile"
	"github.com/penstock/penstock/scheduler/server"
	"github.com/penstock/penstock/scheduler/upstream"
	"github.com/penstock/penstock/slurm"
	"github.com/penstock/penstock/tests/installation"
)

func TestMain(m *testing.M) {
	code := m.Run()
	installation.RemoveBuild()
	os.Exit(code)
}

// metric is one line of the table in METRICS.md, or what the program says of one.
type metric struct {
	kind   string // counter, gauge, histogram; empty = the program does not say here
	labels string // sorted, with commas
}

// documented reads the tables of METRICS.md.
func documented(t *testing.T) map[string]metric {
	t.Helper()
	f, err := os.Open("../METRICS.md")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := map[string]metric{}
	for in := bufio.NewScanner(f); in.Scan(); {
		cells := strings.Split(in.Text(), "|")
		if len(cells) != 7 {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		name := strings.Trim(cells[1], "`")
		if !strings.HasPrefix(name, "penstock_") {
			continue
		}
		if cells[4] == "" || cells[5] == "" {
			t.Errorf("%s: no unit or no meaning", name)
		}
		if _, twice := out[name]; twice {
			t.Errorf("%s stands twice", name)
		}
		out[name] = metric{cells[2], sorted(strings.Split(cells[3], ","))}
	}
	return out
}

func sorted(labels []string) string {
	for i := range labels {
		labels[i] = strings.TrimSpace(labels[i])
	}
	slices.Sort(labels)
	return strings.Join(slices.DeleteFunc(labels, func(l string) bool { return l == "" }), ",")
}

// recorder is a registry that remembers what is registered, with or without values.
type recorder struct{ seen map[string]metric }

func (r recorder) Register(c prometheus.Collector) error {
	kind := map[bool]string{true: "counter"}[isCounter(c)]
	switch c.(type) {
	case prometheus.Histogram, *prometheus.HistogramVec:
		kind = "histogram"
	case prometheus.Gauge, *prometheus.GaugeVec:
		kind = "gauge"
	}
	r.describe(c, kind)
	return nil
}

// isCounter tells counters from gauges, whose methods include a counter's.
func isCounter(c prometheus.Collector) bool {
	_, vec := c.(*prometheus.CounterVec)
	_, counter := c.(prometheus.Counter)
	_, gauge := c.(prometheus.Gauge)
	return vec || counter && !gauge
}

func (r recorder) MustRegister(list ...prometheus.Collector) {
	for _, c := range list {
		_ = r.Register(c)
	}
}

func (recorder) Unregister(prometheus.Collector) bool { return false }

var description = regexp.MustCompile(`fqName: "([^"]*)".*constLabels: {([^}]*)}, variableLabels: {([^}]*)}`)

func (r recorder) describe(c prometheus.Collector, kind string) {
	descs := make(chan *prometheus.Desc, 1000)
	c.Describe(descs)
	close(descs)
	for d := range descs {
		parts := description.FindStringSubmatch(d.String())
		r.seen[parts[1]] = metric{kind, sorted(strings.Split(parts[3], ","))}
	}
}

type noLoop struct{ *reconcile.Loop }

// registered lists the metrics of everything that has any, by making one of each.
func registered(t *testing.T) map[string]metric {
	t.Helper()
	r := recorder{map[string]metric{}}
	_, err := server.New(server.Options{StateDir: secure(t), Metrics: r, Loop: noLoop{}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(secure(t), ledger.Options{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	_, err = reconcile.New(reconcile.Options{
		Ledger: l, Fleet: fleet.New(fleet.Options{}), JoinFile: func(cluster.Launch) (string, error) { return "", nil },
		RemoveJoinFile: func(cluster.Launch) error { return nil }, LogDir: func(cluster.Launch) string { return "" },
		Commander: nobody{}, Prober: nobody{}, Registerer: r,
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = gateway.New(gateway.Options{
		Upstream: upstream.New(upstream.Options{}), Traits: func(jobspecs.EngineKind) (engine.Traits, bool) { return engine.Traits{}, false },
		CacheSaltKey: make([]byte, 32), Registerer: r,
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = slurm.New(slurm.Options{Installation: strings.Repeat("0", 32), LogRoot: "/logs", Penstock: "/penstock", Environ: []string{}, Registerer: r})
	if err != nil {
		t.Fatal(err)
	}
	nothing := func(string) ([]byte, error) { return nil, nil }
	_, err = nomad.Open(nomad.Options{
		API: &api.Config{Address: "http://127.0.0.1:4646"}, Installation: strings.Repeat("0", 32), Penstock: "/penstock", Join: nothing,
		Endpoint: func() ([]byte, error) { return nil, nil }, Registerer: r,
	})
	if err != nil {
		t.Fatal(err)
	}
	own := prometheus.NewRegistry()
	if _, err = agent.New(agentOptions(t, own)); err != nil {
		t.Fatal(err)
	}
	r.describe(own, "")
	return r.seen
}

type nobody struct{}

func (nobody) Send(string, *apiv1.Command) error             { return nil }
func (nobody) Probe(context.Context, reconcile.Target) error { return nil }

func secure(t *testing.T) string { return filepath.Join(t.TempDir(), "state") }

func agentOptions(t *testing.T, r *prometheus.Registry) agent.Options {
	t.Helper()
	ca, err := identity.OpenCA(secure(t))
	if err != nil {
		t.Fatal(err)
	}
	return agent.Options{
		Join: identity.JoinFile{Launch: "l-1", Token: "x", Controllers: []string{"https://127.0.0.1:1"}, CAPEM: string(ca.PEM()), Installation: ca.Installation()},
		Run:  "r", Node: "n", Hostname: "h", Self: "/bin/false", RuntimeDir: t.TempDir(), Registry: r, Log: zerolog.Nop(),
	}
}

// TestMetricsTable: METRICS.md names every metric that exists, as it is, and none besides.
func TestMetricsTable(t *testing.T) {
	t.Parallel()
	table, real := documented(t), registered(t)
	for name, m := range real {
		d, ok := table[name]
		switch {
		case !ok:
			t.Errorf("%s is not in METRICS.md", name)
		case m.labels != d.labels:
			t.Errorf("%s has labels %q, METRICS.md says %q", name, m.labels, d.labels)
		case m.kind != "" && m.kind != d.kind:
			t.Errorf("%s is a %s, METRICS.md says %q", name, m.kind, d.kind)
		}
	}
	for name := range table {
		if _, ok := real[name]; !ok && name != "penstock_build_info" { // the command line's own; the next test sees it
			t.Errorf("METRICS.md names %s, which does not exist", name)
		}
	}
}

// TestMetricsServed reads the metrics of a real installation at all places that METRICS.md names, and holds each against its
// table.
func TestMetricsServed(t *testing.T) {
	in := installation.ForTest(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	if _, err := in.Write("demo.yaml", "apiVersion: penstock/v1\nname: demo\nmodel: {id: tiny}\nengine: {kind: sim}\nroles: {mixed: {replicas: 1}}\n"); err != nil {
		t.Fatal(err)
	}
	in.MustRun(ctx, t, "serve", "--detach")
	in.MustRun(ctx, t, "run", "demo.yaml", "--timeout", "2m")
	client, err := in.Connect(ctx, "me")
	if err != nil {
		t.Fatal(err)
	}
	until(ctx, t, "the gateway answers", func() error {
		_, err := client.Chat(ctx, "tiny", []installation.Message{{Role: "user", Content: "Hello"}}, nil, nil)
		return err
	})
	st, err := in.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	table := documented(t)
	for _, place := range []struct {
		name, url string
		client    *http.Client
		key       string
		must      []string // stand there
	}{
		{"controller", "http://x/metrics", overSocket(t, in), "", []string{"penstock_build_info", "penstock_controller_agents", "penstock_reconcile_probes_total"}},
		{"gateway", client.URL[:len(client.URL)-len("/v1")] + "/metrics", http.DefaultClient, client.Key, []string{"penstock_build_info", "penstock_gateway_requests_total", "penstock_gateway_tokens_total"}},
		{"agent", "https://" + st.Deployments[0].Replicas[0].Address + "/penstock/metrics", asGateway(t, in), "", []string{"penstock_build_info", "penstock_agent_phase", "penstock_agent_requests_total"}},
	} {
		served := scrape(ctx, t, place.client, place.url, place.key)
		for name, kind := range served {
			d, ok := table[name]
			if strings.HasPrefix(name, "penstock_") && (!ok || d.kind != kind) {
				t.Errorf("%s serves the %s %s, METRICS.md says %+v", place.name, kind, name, d)
			}
		}
		for _, name := range append(place.must, "go_goroutines", "process_open_fds") {
			if served[name] == "" {
				t.Errorf("%s does not serve %s", place.name, name)
			}
		}
	}
	in.MustRun(ctx, t, "stop", "--all", "--wait", "--timeout", "60s")
	in.MustRun(ctx, t, "serve", "--stop")
}

func until(ctx context.Context, t *testing.T, what string, f func() error) {
	t.Helper()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// scrape reads the types of all metrics at a place.
func scrape(ctx context.Context, t *testing.T, client *http.Client, url, key string) map[string]string {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", url, resp.Status)
	}
	out := map[string]string{}
	for in := bufio.NewScanner(resp.Body); in.Scan(); {
		var name, kind string
		if n, _ := fmt.Sscanf(in.Text(), "# TYPE %s %s", &name, &kind); n == 2 {
			out[name] = kind
		}
	}
	return out
}

// overSocket reaches the controller as its owner does.
func overSocket(t *testing.T, in *installation.Installation) *http.Client {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(in.State(), "endpoint.json"))
	var e struct{ Socket string }
	if err == nil {
		err = json.Unmarshal(text, &e)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", e.Socket)
		},
	}}
}

// asGateway reaches agents with a gateway's certificate.
func asGateway(t *testing.T, in *installation.Installation) *http.Client {
	t.Helper()
	ca, err := identity.OpenCA(filepath.Join(in.State(), "ca"))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(identity.ID{Role: identity.Gateway, Name: "metrics"}, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	config := identity.ClientConfig(func() *tls.Certificate { return &cert }, ca.Pool(), identity.WantRole(identity.Agent))
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
}
