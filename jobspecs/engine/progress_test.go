package engine

import (
	"math"
	"strings"
	"testing"

	"github.com/penstock/penstock/jobspecs"
)

func TestProgress(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind jobspecs.EngineKind
		line string
		want float64 // NaN = no progress line
	}{
		{jobspecs.VLLM, "Loading safetensors checkpoint shards:  25% Completed | 1/4 [00:00<00:02,  1.35it/s]", 0.25},
		{jobspecs.VLLM, "(Worker_TP0 pid=101) Loading safetensors checkpoint shards:   0% Completed | 0/66 [00:00<?, ?it/s]", 0},
		{jobspecs.VLLM, "Loading pt checkpoint shards: 100% Completed | 2/2 [00:01<00:00,  1.74it/s]", 1},
		{jobspecs.VLLM, "INFO 07-06 10:44:40 Loading weights took 12.5 seconds", math.NaN()},
		{jobspecs.VLLM, "Loading safetensors checkpoint shards:  25% Completed | 5/4", math.NaN()},
		{jobspecs.VLLM, "Loading safetensors checkpoint shards:  25% Completed | 0/0", math.NaN()},
		{jobspecs.SGLang, "Multi-thread loading shards:  74% Completed | 120/160 [00:37<00:12,  3.40it/s]", 0.75},
		{jobspecs.SGLang, "[2026-01-01 10:00:00 TP0] Load weight begin. avail mem=78.50 GB", math.NaN()},
		{jobspecs.TRTLLM, "Loading weights:  50%|█████     | 595/1190 [00:30<00:31, 19.26it/s]", 0.5},
		{jobspecs.TRTLLM, "Loading safetensors weights in parallel: 100%|██████████| 10/10 [00:00<00:00, 284.40it/s]", 1},
		{jobspecs.TRTLLM, "[09/17/2025-21:24:18] [TRT-LLM] [RANK 7] [E] Error executing load_single_module", math.NaN()},
		{jobspecs.LlamaCpp, strings.Repeat(".", 93) + "\r", 0.93},
		{jobspecs.LlamaCpp, strings.Repeat(".", 300), 1},
		{jobspecs.LlamaCpp, "...", math.NaN()},
		{jobspecs.LlamaCpp, "load_tensors: loading model tensors, this can take a while... (mmap = true)", math.NaN()},
		{jobspecs.Sim, "loading weights 123/492 bytes", 0.25},
		{jobspecs.Sim, "loading weights 1/18446744073709551615 bytes", math.NaN()},
		{jobspecs.Sim, "loading weights 7/4 bytes", math.NaN()},
		{jobspecs.Sim, "loading weights 0/0 bytes", math.NaN()},
		{"ollama", "loading weights 1/2 bytes", math.NaN()},
		{jobspecs.Sim, "loading weights 1/2 bytes" + strings.Repeat(" ", maxLine), math.NaN()},
	} {
		got, ok := Progress(c.kind, c.line)
		if want := !math.IsNaN(c.want); ok != want || ok && math.Abs(got-c.want) > 1e-9 {
			t.Errorf("Progress(%s, %.60q) = %v, %v; want %v", c.kind, c.line, got, ok, c.want)
		}
	}
}

// FuzzProgress: any line of any engine gives a share between 0 and 1, or none.
func FuzzProgress(f *testing.F) {
	f.Add("Loading safetensors checkpoint shards:  25% Completed | 1/4 [00:00<00:02,  1.35it/s]")
	f.Add("Multi-thread loading shards:  74% Completed | 120/160 [00:37<00:12,  3.40it/s]")
	f.Add("Loading weights:  50%|█████     | 595/1190 [00:30<00:31, 19.26it/s]")
	f.Add("loading weights 123/456 bytes")
	f.Add(strings.Repeat(".", 50))
	f.Fuzz(func(t *testing.T, line string) {
		for kind := range kinds {
			if share, ok := Progress(kind, line); ok && !(share >= 0 && share <= 1) || !ok && share != 0 {
				t.Errorf("Progress(%s, %q) = %v, %v", kind, line, share, ok)
			}
		}
	})
}
