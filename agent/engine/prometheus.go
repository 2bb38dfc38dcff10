package engine

import (
	"bytes"
	"fmt"
	"math"
	"strconv"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	spec "github.com/penstock/penstock/jobspecs/engine"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// olderNames are what releases in use called a metric before; they are read where the current name is missing.
var olderNames = map[string][]string{
	"vllm:kv_cache_usage_perc":        {"vllm:gpu_cache_usage_perc"},
	"vllm:prefix_cache_queries_total": {"vllm:gpu_prefix_cache_queries_total"},
	"vllm:prefix_cache_hits_total":    {"vllm:gpu_prefix_cache_hits_total"},
	"sglang:num_running_reqs":         {"sglang_num_running_reqs"},
	"sglang:num_queue_reqs":           {"sglang_num_queue_reqs"},
	"sglang:token_usage":              {"sglang_token_usage"},
}

// families is one scrape by metric name.
type families map[string]*dto.MetricFamily

// decodeMetrics reads Prometheus text. Data-parallel ranks show as several series of one name: counts are summed, usage
// is averaged. Other tensor or pipeline ranks see the same requests and are left out.
func decodeMetrics(body []byte, names spec.MetricNames) (*apiv1.EngineLoad, *apiv1.KVState, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	parsed, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		return nil, nil, fmt.Errorf("read the engine's metrics: %w", err)
	}
	f := families(parsed)
	load := &apiv1.EngineLoad{
		Running:               count32(f.sum(names.Running)),
		Waiting:               count32(f.sum(names.Waiting)),
		PromptTokensTotal:     f.sum(names.PromptTokens),
		GenerationTokensTotal: f.sum(names.GenerationTokens),
		PreemptionsTotal:      f.sum(names.Preemptions),
	}
	kv := &apiv1.KVState{
		Usage:              share(f.mean(names.KVUsage)),
		CapacityTokens:     count64(f.sum(names.MaxTokens)),
		CachedTokensTotal:  f.sum(names.CacheHitTokens),
		QueriedTokensTotal: f.sum(names.CacheQueriedTokens),
	}
	f.cacheConfig(names.CacheConfig, kv)
	return load, kv, nil
}

// series are the usable values of a name, or of the first older name that has any.
func (f families) series(name string) []float64 {
	if name == "" {
		return nil
	}
	for _, n := range append([]string{name}, olderNames[name]...) {
		if values := seriesOf(f[n]); len(values) > 0 {
			return values
		}
	}
	return nil
}

func seriesOf(family *dto.MetricFamily) []float64 {
	var values []float64
	for _, m := range family.GetMetric() {
		if v, ok := value(m); ok && !shadowRank(m) {
			values = append(values, v)
		}
	}
	return values
}

func value(m *dto.Metric) (float64, bool) {
	var v float64
	switch {
	case m.Gauge != nil:
		v = m.GetGauge().GetValue()
	case m.Counter != nil:
		v = m.GetCounter().GetValue()
	case m.Untyped != nil:
		v = m.GetUntyped().GetValue()
	default:
		return 0, false
	}
	return v, v >= 0 && !math.IsInf(v, 0)
}

// shadowRank tells whether a series repeats what rank 0 of its tensor or pipeline group says.
func shadowRank(m *dto.Metric) bool {
	for _, l := range m.GetLabel() {
		if (l.GetName() == "tp_rank" || l.GetName() == "pp_rank") && l.GetValue() != "0" {
			return true
		}
	}
	return false
}

func (f families) sum(name string) *float64 {
	values := f.series(name)
	if len(values) == 0 {
		return nil
	}
	var total float64
	for _, v := range values {
		total += v
	}
	if math.IsInf(total, 0) {
		return nil
	}
	return &total
}

func (f families) mean(name string) *float64 {
	total := f.sum(name)
	if total == nil {
		return nil
	}
	return new(*total / float64(len(f.series(name))))
}

// cacheConfig reads the shape of the KV cache from the labels of an info metric.
func (f families) cacheConfig(name string, kv *apiv1.KVState) {
	var blocks, size uint64
	for _, m := range f[name].GetMetric() {
		for _, l := range m.GetLabel() {
			n, err := strconv.ParseUint(l.GetValue(), 10, 32)
			switch {
			case err != nil || shadowRank(m):
			case l.GetName() == "block_size":
				size = n
			case l.GetName() == "num_gpu_blocks":
				blocks += n
			}
		}
	}
	if size == 0 {
		return
	}
	kv.BlockTokens = new(uint32(size))
	if kv.CapacityTokens == nil && blocks > 0 && blocks <= math.MaxUint64/size {
		kv.CapacityTokens = new(blocks * size)
	}
}

// share keeps a fraction inside 0..1: engines round beyond it.
func share(v *float64) *float64 {
	if v == nil {
		return nil
	}
	return new(min(*v, 1))
}

func count32(v *float64) *uint32 {
	if v == nil || *v > math.MaxUint32 {
		return nil
	}
	return new(uint32(*v))
}

func count64(v *float64) *uint64 {
	if v == nil || *v > 1<<53 {
		return nil
	}
	return new(uint64(*v))
}
