package agent

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	spec "github.com/penstock/penstock/jobspecs/engine"
)

func TestEnvironment(t *testing.T) {
	t.Parallel()
	job := []string{
		"PATH=/bin", "HOME=/home/u", "CUDA_VISIBLE_DEVICES=0", "NCCL_SOCKET_IFNAME=ib0", "SLURM_JOB_ID=7", "LC_ALL=C",
		"HF_HOME=/scratch/hf", "HF_TOKEN=hf_x", "SLURM_JWT=j", "NOMAD_TOKEN=n", "VLLM_API_KEY=k", "AWS_SECRET_ACCESS_KEY=a",
		"OPENAI_API_KEY=o", "WANDB_MODE=online", "EDITOR=vi", "SSH_AUTH_SOCK=/tmp/s", "broken", "=x",
	}
	got := environment(job, map[string]string{"A": "1", "PATH": "/opt/bin"}, map[string]string{"A": "2"})
	want := []string{
		"A=2", "CUDA_VISIBLE_DEVICES=0", "HF_HOME=/scratch/hf", "HOME=/home/u", "LC_ALL=C", "NCCL_SOCKET_IFNAME=ib0",
		"PATH=/opt/bin", "SLURM_JOB_ID=7",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestCachesAreWhereTheyCanBeWritten(t *testing.T) {
	t.Parallel()
	home, run := t.TempDir(), t.TempDir()
	tests := map[string]struct {
		job  []string
		want string
	}{
		"the user's choice":     {[]string{"XDG_CACHE_HOME=" + home, "HOME=/nonexistent"}, home},
		"the user's home":       {[]string{"HOME=" + home}, filepath.Join(home, ".cache")},
		"nothing can be used":   {[]string{"HOME=/nonexistent", "XDG_CACHE_HOME=/nonexistent/cache"}, filepath.Join(run, "cache")},
		"there is not even one": {nil, filepath.Join(run, "cache")},
	}
	for name, test := range tests {
		env := caches(test.job, run)
		if env["XDG_CACHE_HOME"] != test.want || env["TRITON_CACHE_DIR"] != filepath.Join(test.want, "triton") {
			t.Errorf("%s: %v, want %s", name, env, test.want)
		}
	}
	if env := caches([]string{"TRITON_CACHE_DIR=/x"}, run); env["TRITON_CACHE_DIR"] != "" {
		t.Errorf("a directory that the user has set was changed: %v", env)
	}
	if left, _ := os.ReadDir(home); len(left) != 0 {
		t.Errorf("to look left %v behind", left)
	}
}

func TestSetupLinesComeFirst(t *testing.T) {
	t.Parallel()
	argv := withSetup(spec.Command{Argv: []string{"echo", "a b", "$HOME"}, Setup: []string{"module load cuda", "source venv/bin/activate"}})
	want := []string{"bash", "-c", "module load cuda\nsource venv/bin/activate\nexec \"$@\"", "penstock", "echo", "a b", "$HOME"}
	if !slices.Equal(argv, want) {
		t.Errorf("got %q", argv)
	}
}

func TestWeightsSize(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, size := range map[string]int{"a.safetensors": 100, "b.safetensors": 20, "old.bin": 999, "config.json": 5} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Repeat("x", size)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]uint64{
		dir: 120, filepath.Join(dir, "old.bin"): 999, filepath.Join(dir, "none"): 0, "": 0, t.TempDir(): 0,
	} {
		if got := weightsSize(path); got != want {
			t.Errorf("%q: %d bytes, want %d", path, got, want)
		}
	}
}

func TestFilesStayInTheirFolder(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	for name, ok := range map[string]bool{"ctx.yml": true, "sub/ctx.yml": true, "../out": false, "/etc/x": false, "": false} {
		if err := writeFile(dir, name, "x"); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "ctx.yml"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}
