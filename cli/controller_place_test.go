package cli

import (
	"strings"
	"testing"
)

func TestControllersPlace(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]struct {
		f    *fakeControl
		code int
		says string
	}{
		"run f.yaml --controller there":       {nil, ExitUsage, "use here, job, or the https:// address"},
		"run f.yaml --controller http://a:1":  {nil, ExitUsage, "use here, job"},
		"run f.yaml --controller job":         {nil, ExitError, "sbatch is not on the PATH"},
		"run f.yaml --controller here":        {nil, ExitError, "start the controller"},
		"run f.yaml --controller https://a:1": {nil, ExitError, "no controller answers"},
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			tt := newTerminal(t, want.f)
			tt.write(t, "f.yaml", demoFile)
			if code, _, talk := tt.run(strings.Fields(args)...); code != want.code || !strings.Contains(talk, want.says) {
				t.Errorf("exit %d, want %d; %s, want %q in it", code, want.code, talk, want.says)
			}
		})
	}
}
