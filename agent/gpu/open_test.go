package gpu

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestOpenFallsBackToTheProgram(t *testing.T) {
	t.Parallel()
	none := filepath.Join(t.TempDir(), "none")
	smi := func(script string) Options {
		return Options{Library: none, SMI: SMIOptions{Program: program(t, script), Timeout: time.Minute}}
	}
	sampler, closeGPUs, err := Open(t.Context(), smi(answers(smiCards, smiApps, smiList)))
	if err != nil {
		t.Fatal(err)
	}
	if s := checkSampler(t, sampler); s.Source != "nvidia-smi" {
		t.Errorf("source %q", s.Source)
	}
	if err := closeGPUs(); err != nil {
		t.Error(err)
	}
	for name, test := range map[string]struct {
		opts  Options
		want  string
		noGPU bool
	}{
		"nothing":     {Options{Library: none, SMI: SMIOptions{Program: none}}, "find nvidia-smi: no GPU found", true},
		"no driver":   {smi("exit 9"), "exit 9", true},
		"broken card": {smi("echo GPU is lost; exit 15"), "exit 15: GPU is lost", false},
	} {
		_, _, err := Open(t.Context(), test.opts)
		if err == nil || !strings.Contains(err.Error(), test.want) || errors.Is(err, ErrNoGPU) != test.noGPU {
			t.Errorf("%s: %v, want %q, no GPU: %v", name, err, test.want, test.noGPU)
		}
	}
}

func TestWorseTellsTheTrouble(t *testing.T) {
	t.Parallel()
	trouble := errors.New("trouble")
	for _, pair := range [][2]error{{trouble, ErrNoGPU}, {ErrNoGPU, trouble}} {
		if err := worse(pair[0], pair[1]); !errors.Is(err, trouble) || errors.Is(err, ErrNoGPU) {
			t.Errorf("%v: %v", pair, err)
		}
	}
	if err := worse(ErrNoGPU, ErrNoGPU); !errors.Is(err, ErrNoGPU) {
		t.Error(err)
	}
}
