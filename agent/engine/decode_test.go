package engine

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	spec "github.com/penstock/penstock/jobspecs/engine"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

var (
	vllmNames = spec.MetricNames{
		Running: "vllm:num_requests_running", Waiting: "vllm:num_requests_waiting", KVUsage: "vllm:kv_cache_usage_perc",
		PromptTokens: "vllm:prompt_tokens_total", GenerationTokens: "vllm:generation_tokens_total",
		CacheQueriedTokens: "vllm:prefix_cache_queries_total", CacheHitTokens: "vllm:prefix_cache_hits_total",
		Preemptions: "vllm:num_preemptions_total", CacheConfig: "vllm:cache_config_info",
	}
	sglangNames = spec.MetricNames{
		Running: "sglang:num_running_reqs", Waiting: "sglang:num_queue_reqs", KVUsage: "sglang:token_usage",
		MaxTokens: "sglang:max_total_num_tokens",
	}
	llamaNames = spec.MetricNames{
		Running: "llamacpp:requests_processing", Waiting: "llamacpp:requests_deferred",
		PromptTokens: "llamacpp:prompt_tokens_total", GenerationTokens: "llamacpp:tokens_predicted_total",
		CacheHitTokens: "llamacpp:prompt_tokens_cached_total",
	}
)

func TestDecodeMetrics(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		text  string
		names spec.MetricNames
		load  *apiv1.EngineLoad
		kv    *apiv1.KVState
	}{
		"nothing said is unknown": {names: vllmNames, load: &apiv1.EngineLoad{}, kv: &apiv1.KVState{}},
		"vllm": {
			text: `# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="m"} 1e+06
# TYPE vllm:prefix_cache_queries_total counter
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 900.0
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 800.0
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{le="+Inf"} 2
vllm:time_to_first_token_seconds_sum 0.5
vllm:time_to_first_token_seconds_count 2
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="1000",num_cpu_blocks="None"} 1.0
`,
			names: vllmNames,
			load:  &apiv1.EngineLoad{Running: new(uint32(3)), Waiting: new(uint32(0)), PromptTokensTotal: new(1e6)},
			kv: &apiv1.KVState{
				Usage: new(0.25), CapacityTokens: new(uint64(16000)), BlockTokens: new(uint32(16)),
				CachedTokensTotal: new(800.0), QueriedTokensTotal: new(900.0),
			},
		},
		"older vllm, two data-parallel ranks": {
			text: `vllm:num_requests_running{engine="0"} 3
vllm:num_requests_running{engine="1"} 4
vllm:gpu_cache_usage_perc{engine="0"} 0.2
vllm:gpu_cache_usage_perc{engine="1"} 0.4
vllm:gpu_prefix_cache_hits_total{engine="0"} 5
vllm:cache_config_info{block_size="16",num_gpu_blocks="10",engine="0"} 1
vllm:cache_config_info{block_size="16",num_gpu_blocks="20",engine="1"} 1
`,
			names: vllmNames,
			load:  &apiv1.EngineLoad{Running: new(uint32(7))},
			kv: &apiv1.KVState{
				Usage: new(0.30000000000000004), CapacityTokens: new(uint64(480)), BlockTokens: new(uint32(16)),
				CachedTokensTotal: new(5.0),
			},
		},
		"sglang, tensor ranks counted once": {
			text: `sglang:num_running_reqs{tp_rank="0",dp_rank="0"} 2
sglang:num_running_reqs{tp_rank="1",dp_rank="0"} 2
sglang:num_running_reqs{tp_rank="0",dp_rank="1"} 1
sglang:num_queue_reqs{tp_rank="0"} 9
sglang:token_usage{tp_rank="0"} 1.02
sglang:max_total_num_tokens{tp_rank="0"} 123456
`,
			names: sglangNames,
			load:  &apiv1.EngineLoad{Running: new(uint32(3)), Waiting: new(uint32(9))},
			kv:    &apiv1.KVState{Usage: new(1.0), CapacityTokens: new(uint64(123456))},
		},
		"what makes no sense is unknown": {
			text: `vllm:num_requests_running NaN
vllm:num_requests_waiting -1
vllm:kv_cache_usage_perc +Inf
vllm:cache_config_info{block_size="None",num_gpu_blocks="10"} 1
`,
			names: vllmNames, load: &apiv1.EngineLoad{}, kv: &apiv1.KVState{},
		},
		"llama-server": {
			text: sample(t, "llama-metrics-busy.txt"), names: llamaNames,
			load: &apiv1.EngineLoad{
				Running: new(uint32(2)), Waiting: new(uint32(1)),
				PromptTokensTotal: new(131.0), GenerationTokensTotal: new(41.0),
			},
			kv: &apiv1.KVState{CachedTokensTotal: new(166.0)},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			load, kv, err := decodeMetrics([]byte(test.text), test.names)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.load, load, protocmp.Transform()); diff != "" {
				t.Errorf("load (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.kv, kv, protocmp.Transform()); diff != "" {
				t.Errorf("kv (-want +got):\n%s", diff)
			}
		})
	}
	if _, _, err := decodeMetrics([]byte("<html>"), vllmNames); err == nil {
		t.Error("a page that is no metrics must be an error, not an idle engine")
	}
}

func TestDecodeIterations(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		text string
		load *apiv1.EngineLoad
		kv   *apiv1.KVState
	}{
		"nothing ran": {"[]", &apiv1.EngineLoad{}, &apiv1.KVState{}},
		"newest last": {
			`[{"numActiveRequests":9,"numQueuedRequests":9},
			  {"numActiveRequests":5,"numQueuedRequests":0,"iterLatencyMS":1.5,
			   "kvCacheStats":{"maxNumBlocks":1000,"usedNumBlocks":600,"tokensPerBlock":32,"missedBlocks":1}}]`,
			&apiv1.EngineLoad{Running: new(uint32(5)), Waiting: new(uint32(0))},
			&apiv1.KVState{Usage: new(0.6), CapacityTokens: new(uint64(32000)), BlockTokens: new(uint32(32))},
		},
		"one record without the cache": {
			`{"numActiveRequests":1}`, &apiv1.EngineLoad{Running: new(uint32(1))}, &apiv1.KVState{},
		},
	}
	for name, test := range tests {
		load, kv, err := decodeIterations([]byte(test.text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(test.load, load, protocmp.Transform()); diff != "" {
			t.Errorf("%s: load (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(test.kv, kv, protocmp.Transform()); diff != "" {
			t.Errorf("%s: kv (-want +got):\n%s", name, diff)
		}
	}
}

func TestDecodeSlots(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text string
		want *apiv1.KVState
	}{
		"busy": {
			sample(t, "llama-slots-busy.json"),
			&apiv1.KVState{CapacityTokens: new(uint64(32768)), Usage: new(459.0 / 32768)},
		},
		"never used": {`[{"id":0,"n_ctx":256}]`, &apiv1.KVState{CapacityTokens: new(uint64(256)), Usage: new(0.0)}},
		"no slots":   {`[]`, &apiv1.KVState{}},
	} {
		kv := &apiv1.KVState{}
		if err := decodeSlots([]byte(test.text), kv); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(test.want, kv, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestCheckToken(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{
		`{"choices":[{"text":"x"}]}`:                                true,
		`{"choices":[{"text":""}],"usage":{"completion_tokens":1}}`: true, // half a character, or the end
		`{"choices":[{"text":""}],"usage":{"completion_tokens":0}}`: false,
		`{"choices":[],"usage":{"completion_tokens":1}}`:            false,
		`{"object":"error"}`:                                        false,
		`not JSON`:                                                  false,
	} {
		if err := checkCompletion([]byte(text)); (err == nil) != ok {
			t.Errorf("completion %s: %v, want ok=%v", text, err, ok)
		}
	}
	for text, ok := range map[string]bool{
		`{"data":[{"embedding":[0.5,1]}]}`: true,
		`{"data":[{"embedding":[]}]}`:      false,
		`{"data":[]}`:                      false,
	} {
		if err := checkEmbedding([]byte(text)); (err == nil) != ok {
			t.Errorf("embedding %s: %v, want ok=%v", text, err, ok)
		}
	}
}

func sample(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
