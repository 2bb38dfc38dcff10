package sim

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// modelFile writes a file of n bytes.
func modelFile(t *testing.T, path string, n int, fill byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte{fill}, n), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func fingerprintOf(t *testing.T, model string, rate int64) Fingerprint {
	t.Helper()
	w, err := findWeights(model)
	if err != nil {
		t.Fatal(err)
	}
	f, err := w.load(t.Context(), rate, newFaults(nil), &bytes.Buffer{})
	if err != nil || w.read.Load() != w.total {
		t.Fatalf("read %d of %d bytes: %v", w.read.Load(), w.total, err)
	}
	return f
}

func TestFingerprints(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const big = 3*edge + 1234
	base := fingerprintOf(t, modelFile(t, filepath.Join(dir, "base"), big, 1), 0)
	for name, f := range map[string]Fingerprint{
		"no file":    FingerprintOf("base"),
		"other size": fingerprintOf(t, modelFile(t, filepath.Join(dir, "size"), big+1, 1), 0),
		"other fill": fingerprintOf(t, modelFile(t, filepath.Join(dir, "fill"), big, 2), 0),
		"small":      fingerprintOf(t, modelFile(t, filepath.Join(dir, "small"), 10, 1), 0),
		"empty":      fingerprintOf(t, modelFile(t, filepath.Join(dir, "empty"), 0, 1), 0),
	} {
		if f == base {
			t.Errorf("%s: the fingerprint does not differ", name)
		}
	}
	if again := fingerprintOf(t, filepath.Join(dir, "base"), 1<<40); again != base {
		t.Errorf("the size of reads changes the fingerprint: %s and %s", again, base)
	}
	// A change of one byte in the first or last MiB counts, one between them does not.
	for at, counts := range map[int]bool{0: true, edge - 1: true, edge: false, big - edge - 1: false, big - edge: true, big - 1: true} {
		data := bytes.Repeat([]byte{1}, big)
		data[at] = 9
		path := filepath.Join(dir, "changed")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if f := fingerprintOf(t, path, 0); (f != base) != counts {
			t.Errorf("byte %d of %d: changes the fingerprint: %v, want %v", at, big, f != base, counts)
		}
	}
}

func TestFolderOfWeights(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	modelFile(t, filepath.Join(dir, "blobs", "x"), 1000, 1)
	modelFile(t, filepath.Join(dir, "m", "config.json"), 100, 2)
	if err := os.Symlink(filepath.Join(dir, "blobs", "x"), filepath.Join(dir, "m", "model.safetensors")); err != nil {
		t.Fatal(err)
	}
	w, err := findWeights(filepath.Join(dir, "m"))
	if err != nil || w.total != 1100 || len(w.files) != 2 {
		t.Errorf("found %+v, %v", w, err)
	}
}

func TestLoadingTakesItsTimeAndShowsProgress(t *testing.T) {
	t.Parallel()
	path := modelFile(t, filepath.Join(t.TempDir(), "m"), 10<<20, 1)
	synctest.Test(t, func(t *testing.T) {
		w, err := findWeights(path)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		start := time.Now()
		if _, err := w.load(t.Context(), 1<<20, newFaults(nil), &out); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); (took - 10*time.Second).Abs() > 10*time.Millisecond {
			t.Errorf("10 MiB at 1 MiB/s took %s", took)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if n := len(lines); n < 20 || n > 45 || lines[0] != "loading weights 0/10485760 bytes" || lines[n-1] != "loading weights 10485760/10485760 bytes" {
			t.Errorf("%d lines, from %q to %q", n, lines[0], lines[n-1])
		}
	})
}

func TestEverythingAnswers503WhileLoading(t *testing.T) {
	t.Parallel()
	path := modelFile(t, filepath.Join(t.TempDir(), "m"), 1<<20, 1)
	r := launch(t, fast(func(o *Options) { o.Model = path }, failing("stall-loading:1000")))
	<-r.Listening()
	for _, path := range []string{"/health", "/v1/models", "/metrics", "/version"} {
		if status, _ := r.get(path); status != 503 {
			t.Errorf("%s while loading: %d", path, status)
		}
	}
	if status, _ := r.post("/v1/completions", fields{"prompt": "a"}); status != 503 {
		t.Errorf("completions while loading: %d", status)
	}
	r.post(failPath, fields{"clear": []string{"stall-loading"}})
	r.awaitReady()
	if status, _ := r.get("/health"); status != 200 {
		t.Errorf("health: %d", status)
	}
	if want := fingerprintOf(t, path, 0); r.Fingerprint() != want {
		t.Errorf("fingerprint %s, want %s", r.Fingerprint(), want)
	}
}

func TestCrashWhileLoading(t *testing.T) {
	t.Parallel()
	path := modelFile(t, filepath.Join(t.TempDir(), "m"), 1<<20, 1)
	r := launch(t, fast(func(o *Options) { o.Model = path }, failing("crash-loading:300000,3")))
	if err := r.exit(); exitCode(err) != 3 || !strings.Contains(err.Error(), "bytes of weights") {
		t.Errorf("ended with %v", err)
	}
	if out := r.output.String(); !strings.Contains(out, "loading weights 0/1048576 bytes") {
		t.Errorf("output %q", out)
	}
}

func TestLoadingCanBeCancelled(t *testing.T) {
	t.Parallel()
	path := modelFile(t, filepath.Join(t.TempDir(), "m"), 1<<20, 1)
	w, err := findWeights(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := w.load(ctx, 1, newFaults(nil), &bytes.Buffer{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ended with %v", err)
	}
}
