package engine

import (
	"math"
	"testing"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// FuzzMetrics: whatever an engine answers, what comes out is unset or a sane number.
func FuzzMetrics(f *testing.F) {
	f.Add([]byte(sample(f, "llama-metrics-busy.txt")))
	f.Add([]byte("vllm:num_requests_running{engine=\"0\"} 3\nvllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"4294967295\"} 1\n"))
	f.Add([]byte("vllm:kv_cache_usage_perc 1e308\nvllm:kv_cache_usage_perc{a=\"b\"} 1e308\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		if load, kv, err := decodeMetrics(body, vllmNames); err == nil {
			checkSane(t, load, kv)
		}
		if load, kv, err := decodeMetrics(body, llamaNames); err == nil {
			checkSane(t, load, kv)
		}
	})
}

func FuzzIterations(f *testing.F) {
	f.Add([]byte(`[{"numActiveRequests":5,"kvCacheStats":{"maxNumBlocks":1000,"usedNumBlocks":600,"tokensPerBlock":32}}]`))
	f.Add([]byte(`{"numActiveRequests":-5,"kvCacheStats":{"maxNumBlocks":1e308,"usedNumBlocks":1e308,"tokensPerBlock":1e308}}`))
	f.Add([]byte(`[null]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) == 0 {
			return // decode hands over only what begins with a bracket
		}
		if load, kv, err := decodeIterations(body); err == nil {
			checkSane(t, load, kv)
		}
	})
}

func FuzzSlots(f *testing.F) {
	f.Add([]byte(sample(f, "llama-slots-busy.json")))
	f.Add([]byte(`[{"n_ctx":18446744073709551615,"n_prompt_tokens":18446744073709551615},{}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		kv := &apiv1.KVState{}
		if err := decodeSlots(body, kv); err == nil {
			checkSane(t, &apiv1.EngineLoad{}, kv)
		}
	})
}

// FuzzAnswers: the small decoders take anything without a crash, and never call nothing a token.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(sample(f, "llama-models.json")))
	f.Add([]byte(`{"choices":[{"text":"x"}],"usage":{"completion_tokens":1}}`))
	f.Add([]byte(`{"data":[{"embedding":[1]}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		names, err := decodeModels(body)
		for _, n := range names {
			if err != nil || n == "" {
				t.Errorf("model %q with error %v", n, err)
			}
		}
		if len(body) == 0 && (checkCompletion(body) == nil || checkEmbedding(body) == nil) {
			t.Error("an empty answer passes for a token")
		}
	})
}

func checkSane(t *testing.T, load *apiv1.EngineLoad, kv *apiv1.KVState) {
	t.Helper()
	for name, v := range map[string]*float64{
		"prompt": load.PromptTokensTotal, "generation": load.GenerationTokensTotal, "preemptions": load.PreemptionsTotal,
		"cached": kv.CachedTokensTotal, "queried": kv.QueriedTokensTotal, "usage": kv.Usage,
	} {
		if v != nil && (math.IsNaN(*v) || math.IsInf(*v, 0) || *v < 0) {
			t.Errorf("%s = %v", name, *v)
		}
	}
	if kv.Usage != nil && *kv.Usage > 1 {
		t.Errorf("usage = %v", *kv.Usage)
	}
}
