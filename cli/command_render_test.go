package cli

import (
	"strings"
	"testing"
)

func TestRenderForSlurm(t *testing.T) {
	t.Parallel()
	tt := newTerminal(t, nil)
	tt.write(t, "pair.yaml", strings.Replace(demoFile, "{mixed: {replicas: 1}}", "{prefill: {}, decode: {gpus: 2}}", 1))
	if code, _, talk := tt.run("render", "pair.yaml", "--cluster", "slurm", "--elastic"); code != ExitUsage || !strings.Contains(talk, "choose one with --role") {
		t.Errorf("two roles without a choice: exit %d, %s", code, talk)
	}
	code, out, talk := tt.run("render", "pair.yaml", "--cluster", "slurm", "--role", "decode")
	if code != 0 || !strings.Contains(out, "#SBATCH --gres=gpu:2\n") || !strings.Contains(out, "exec penstock agent") {
		t.Errorf("exit %d, %s\n%s", code, talk, out)
	}
}
