package sim

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the engine's metrics under vLLM's names, with its labels model_name and engine. The scheduler's goroutine
// changes them.
type metrics struct {
	running, waiting, usage              prometheus.Gauge
	queries, hits                        prometheus.Counter
	externalQueries, externalHits        prometheus.Counter
	promptTokens, cachedTokens, answered prometheus.Counter
	preemptions                          prometheus.Counter
	success, bySource                    map[string]prometheus.Counter
	ttft, itl, e2e                       prometheus.Observer
	queue, inference, prefill, decode    prometheus.Observer
	promptSize, answerSize, stepTokens   prometheus.Observer
}

var (
	ttftBuckets    = []float64{.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560}
	itlBuckets     = []float64{.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80}
	latencyBuckets = []float64{.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680}
	tokenBuckets   = []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000}
	stepBuckets    = []float64{1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384}
)

// newMetrics registers everything at reg.
func newMetrics(reg prometheus.Registerer, opts Options, f *faults) *metrics {
	labels := prometheus.Labels{"model_name": opts.servedNames()[0], "engine": "0"}
	r := registrar{reg: prometheus.WrapRegistererWith(labels, reg), faults: f}
	m := &metrics{
		running: r.gauge("num_requests_running", "Number of requests in model execution batches."),
		waiting: r.gauge("num_requests_waiting", "Number of requests waiting to be processed."),
		usage:   r.gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage."),

		queries:         r.counter("prefix_cache_queries_total", "Prefix cache queries, in number of queried tokens."),
		hits:            r.counter("prefix_cache_hits_total", "Prefix cache hits, in number of cached tokens."),
		externalQueries: r.counter("external_prefix_cache_queries_total", "Queries of other engines' cache, in tokens."),
		externalHits:    r.counter("external_prefix_cache_hits_total", "Hits in other engines' cache, in tokens."),
		promptTokens:    r.counter("prompt_tokens_total", "Number of prompt tokens, cached ones included."),
		cachedTokens:    r.counter("prompt_tokens_cached_total", "Number of prompt tokens found in a cache."),
		answered:        r.counter("generation_tokens_total", "Number of generation tokens processed."),
		preemptions:     r.counter("num_preemptions_total", "Cumulative number of preemptions."),

		ttft:       r.histogram("time_to_first_token_seconds", "Time to first token in seconds.", ttftBuckets),
		itl:        r.histogram("inter_token_latency_seconds", "Time between two tokens in seconds.", itlBuckets),
		e2e:        r.histogram("e2e_request_latency_seconds", "Request latency in seconds.", latencyBuckets),
		queue:      r.histogram("request_queue_time_seconds", "Time in the waiting phase.", latencyBuckets),
		inference:  r.histogram("request_inference_time_seconds", "Time in the running phase.", latencyBuckets),
		prefill:    r.histogram("request_prefill_time_seconds", "Time in the prefill phase.", latencyBuckets),
		decode:     r.histogram("request_decode_time_seconds", "Time in the decode phase.", latencyBuckets),
		promptSize: r.histogram("request_prompt_tokens", "Number of prompt tokens per request.", tokenBuckets),
		answerSize: r.histogram("request_generation_tokens", "Number of generated tokens per request.", tokenBuckets),
		stepTokens: r.histogram("iteration_tokens_total", "Number of tokens per engine step.", stepBuckets),
	}
	m.success = r.counters("request_success_total", "Count of successfully processed requests.", "finished_reason",
		string(finishedStop), string(finishedLength), string(finishedAbort), string(finishedError))
	m.bySource = r.counters("prompt_tokens_by_source_total", "Number of prompt tokens by source.", "source",
		"local_compute", "local_cache_hit", "external_kv_transfer")
	r.info(opts)
	return m
}

// registrar registers metrics one by one.
type registrar struct {
	reg    prometheus.Registerer
	faults *faults
}

// gauge is a gauge that shows 0 while the engine lies.
func (r registrar) gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "vllm:" + name, Help: help})
	r.reg.MustRegister(lyingGauge{g, r.faults})
	return g
}

func (r registrar) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "vllm:" + name, Help: help})
	r.reg.MustRegister(c)
	return c
}

func (r registrar) histogram(name, help string, buckets []float64) prometheus.Observer {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "vllm:" + name, Help: help, Buckets: buckets})
	r.reg.MustRegister(h)
	return h
}

// counters are one counter for each value of a label, all of them there from the start.
func (r registrar) counters(name, help, label string, values ...string) map[string]prometheus.Counter {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vllm:" + name, Help: help}, []string{label})
	r.reg.MustRegister(vec)
	out := map[string]prometheus.Counter{}
	for _, v := range values {
		out[v] = vec.WithLabelValues(v)
	}
	return out
}

func (r registrar) info(opts Options) {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "vllm:cache_config_info", Help: "Information of the LLMEngine CacheConfig.",
		ConstLabels: prometheus.Labels{
			"block_size": fmt.Sprint(opts.BlockSize), "num_gpu_blocks": fmt.Sprint(opts.NumGPUBlocks),
			"enable_prefix_caching": "True", "prefix_caching_hash_algo": "sha256_cbor", "cache_dtype": "auto",
		},
	})
	g.Set(1)
	r.reg.MustRegister(g)
}

// lyingGauge shows 0 instead of its value while the failure LieMetrics is on.
type lyingGauge struct {
	prometheus.Gauge
	faults *faults
}

// Collect sends the value, or the lie.
func (g lyingGauge) Collect(ch chan<- prometheus.Metric) {
	if g.faults.has(LieMetrics) {
		ch <- prometheus.MustNewConstMetric(g.Desc(), prometheus.GaugeValue, 0)
		return
	}
	g.Gauge.Collect(ch)
}

func (m *metrics) state(running, waiting int, usage float64) {
	m.running.Set(float64(running))
	m.waiting.Set(float64(waiting))
	m.usage.Set(usage)
}

// admitted counts what the caches did for a request that begins to run.
func (m *metrics) admitted(s *sequence) {
	m.queries.Add(float64(s.promptLen))
	m.hits.Add(float64(s.reused))
	if s.pull != nil || s.asked {
		m.externalQueries.Add(float64(s.promptLen - s.reused))
		m.externalHits.Add(float64(s.fetched))
	}
}

// prefilled counts a prompt that is done, cached tokens included, as vLLM counts it.
func (m *metrics) prefilled(s *sequence) {
	m.promptTokens.Add(float64(s.promptLen))
	m.cachedTokens.Add(float64(s.reused + s.fetched))
	m.bySource["local_cache_hit"].Add(float64(s.reused))
	m.bySource["external_kv_transfer"].Add(float64(s.fetched))
	m.bySource["local_compute"].Add(float64(s.promptLen - s.reused - s.fetched))
}

// token counts one generated token and its latency.
func (m *metrics) token(s *sequence, now time.Time) {
	m.answered.Inc()
	if s.firstToken.IsZero() {
		s.firstToken = now
		m.ttft.Observe(now.Sub(s.arrived).Seconds())
		m.prefilled(s)
	} else {
		m.itl.Observe(now.Sub(s.lastToken).Seconds())
	}
	s.lastToken = now
}

// ended counts a request that ended.
func (m *metrics) ended(s *sequence, why finish, now time.Time) {
	m.success[string(why)].Inc()
	m.e2e.Observe(now.Sub(s.arrived).Seconds())
	m.promptSize.Observe(float64(s.promptLen))
	m.answerSize.Observe(float64(s.answered()))
	if s.scheduled.IsZero() {
		return
	}
	m.queue.Observe(s.scheduled.Sub(s.arrived).Seconds())
	m.inference.Observe(now.Sub(s.scheduled).Seconds())
	if !s.firstToken.IsZero() {
		m.prefill.Observe(s.firstToken.Sub(s.scheduled).Seconds())
		m.decode.Observe(s.lastToken.Sub(s.firstToken).Seconds())
	}
}
