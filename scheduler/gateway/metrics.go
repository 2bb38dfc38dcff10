package gateway

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the gateway's. Labels are models of the view, status codes and fixed words: nothing that a client makes up.
type metrics struct {
	requests      *prometheus.CounterVec // model, code
	ttft          *prometheus.HistogramVec
	itl           *prometheus.HistogramVec
	tokens        *prometheus.CounterVec // model, kind
	open          prometheus.Gauge
	retries       *prometheus.CounterVec // cause
	continuations *prometheus.CounterVec // result
	upstream      *prometheus.CounterVec // cause
	suspected     prometheus.Counter
	refusedKeys   prometheus.Counter
	bytes         prometheus.Counter
	dropped       prometheus.Counter

	keys       *prometheus.CounterVec // kind
	keySeconds prometheus.Histogram
	expected   *prometheus.CounterVec   // model
	ratio      *prometheus.HistogramVec // deployment, role
	miss       *prometheus.GaugeVec     // deployment, role
	halves     *prometheus.CounterVec   // by
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "penstock", Subsystem: "gateway", Name: name, Help: help}
	}
	histogram := func(name, help string, buckets []float64) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Namespace: "penstock", Subsystem: "gateway", Name: name, Help: help, Buckets: buckets}
	}
	m := &metrics{
		requests: prometheus.NewCounterVec(counter("requests_total", "Requests by model and HTTP status."), []string{"model", "code"}),
		ttft: prometheus.NewHistogramVec(histogram("time_to_first_token_seconds", "From a request's arrival to the first text that the client got.",
			[]float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}), []string{"model"}),
		itl: prometheus.NewHistogramVec(histogram("inter_token_latency_seconds", "Between two writes of text of one stream.",
			[]float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10}), []string{"model"}),
		tokens:        prometheus.NewCounterVec(counter("tokens_total", "Tokens by model and kind: prompt, cached, completion."), []string{"model", "kind"}),
		open:          prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "penstock", Subsystem: "gateway", Name: "open_requests", Help: "Requests at present."}),
		retries:       prometheus.NewCounterVec(counter("retries_total", "Requests sent to another replica before the first byte, by cause."), []string{"cause"}),
		continuations: prometheus.NewCounterVec(counter("continuations_total", "Streams cut in the middle, by result: continued, lost."), []string{"result"}),
		upstream:      prometheus.NewCounterVec(counter("upstream_errors_total", "Replicas that failed a request, by cause."), []string{"cause"}),
		suspected:     prometheus.NewCounter(counter("suspected_replicas_total", "Replicas taken out until a probe succeeds.")),
		refusedKeys:   prometheus.NewCounter(counter("refused_keys_total", "Requests refused for want of a valid key.")),
		bytes:         prometheus.NewCounter(counter("sent_bytes_total", "Bytes of answers sent to clients.")),
		dropped:       prometheus.NewCounter(counter("dropped_records_total", "Finished requests whose record was lost.")),
		keys: prometheus.NewCounterVec(counter("prefix_keys_total", "Prompts looked up in caches, by how they were named: exact, conversation, text."),
			[]string{"kind"}),
		keySeconds: prometheus.NewHistogram(histogram("prefix_keys_seconds", "What finding a prompt's names took, before its replica was chosen.",
			[]float64{.00005, .0002, .001, .002, .005, .01, .02, .05})),
		expected: prometheus.NewCounterVec(counter("expected_cached_tokens_total", "Prompt tokens that were thought to be in the chosen replica's caches, of requests whose engine told how many were."),
			[]string{"model"}),
		ratio: prometheus.NewHistogramVec(histogram("first_token_ratio", "Time from a stream's sending to its first token, over what was expected.",
			[]float64{.1, .25, .5, .7, .9, 1.1, 1.4, 2, 4, 10}), []string{"deployment", "role"}),
		miss: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "penstock", Subsystem: "gateway", Name: "prediction_miss_factor",
			Help: "By what factor expected times to the first token miss on average; 1 = never.",
		}, []string{"deployment", "role"}),
		halves: prometheus.NewCounterVec(counter("disaggregated_total", "Prompts of disaggregated deployments, by who read them: pair, decode."), []string{"by"}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{
		m.requests, m.ttft, m.itl, m.tokens, m.open, m.retries, m.continuations, m.upstream, m.suspected, m.refusedKeys, m.bytes, m.dropped,
		m.keys, m.keySeconds, m.expected, m.ratio, m.miss, m.halves,
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// settled counts a finished request.
func (m *metrics) settled(model string, status int, u usage) {
	m.requests.WithLabelValues(model, strconv.Itoa(status)).Inc()
	if u.prompt > 0 {
		m.tokens.WithLabelValues(model, "prompt").Add(float64(u.prompt))
	}
	if u.cached > 0 {
		m.tokens.WithLabelValues(model, "cached").Add(float64(u.cached))
	}
	if u.completion > 0 {
		m.tokens.WithLabelValues(model, "completion").Add(float64(u.completion))
	}
}

func seconds(d time.Duration) float64 { return max(0, d.Seconds()) }
