package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/zeebo/xxh3"
)

const (
	readChunk   = 256 << 10
	edge        = 1 << 20 // of each file, the first and last MiB make the fingerprint
	reportEvery = 250 * time.Millisecond
)

// weights are the files of a model, read at the start as an engine reads them.
type weights struct {
	model string
	files []weightFile
	total int64
	read  atomic.Int64 // bytes so far
}

type weightFile struct {
	path string
	size int64
}

// findWeights lists the regular files of a model in order. A model that is no path has none.
func findWeights(model string) (*weights, error) {
	w := &weights{model: model}
	err := filepath.WalkDir(model, func(path string, d fs.DirEntry, err error) error {
		if path == model && errors.Is(err, fs.ErrNotExist) {
			return filepath.SkipAll
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := os.Stat(path) // through links: model caches link to blobs
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() {
			w.files = append(w.files, weightFile{path, info.Size()})
			w.total += info.Size()
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for the weights of %s: %w", model, err)
	}
	return w, nil
}

// load reads all files at rate bytes per second (0: no limit), writes lines `loading weights 123/456 bytes` to progress,
// and returns the fingerprint. Failures of loading happen here.
func (w *weights) load(ctx context.Context, rate int64, f *faults, progress io.Writer) (Fingerprint, error) {
	if err := w.fail(ctx, f); err != nil {
		return 0, err
	}
	if len(w.files) == 0 {
		return FingerprintOf(w.model), nil
	}
	sum := xxh3.New()
	buf := make([]byte, chunkSize(rate))
	report := reporter{w: w, to: progress}
	report.line()
	start := time.Now()
	for _, file := range w.files {
		err := w.loadFile(ctx, file, buf, sum, func() error {
			report.maybe()
			if err := w.fail(ctx, f); err != nil {
				return err
			}
			return pace(ctx, start, w.read.Load(), rate)
		})
		if err != nil {
			return 0, err
		}
	}
	report.line()
	return Fingerprint(sum.Sum64()), nil
}

// chunkSize is how much is read at once: at most a tenth of a second's worth.
func chunkSize(rate int64) int64 {
	if rate == 0 {
		return readChunk
	}
	return min(max(rate/10, 1), readChunk)
}

// loadFile reads a file to its end and adds its size and edges to sum.
func (w *weights) loadFile(ctx context.Context, file weightFile, buf []byte, sum *xxh3.Hasher, each func() error) error {
	in, err := os.Open(file.path)
	if err != nil {
		return fmt.Errorf("load weights: %w", err)
	}
	defer in.Close()
	fmt.Fprintf(sum, "%d:", file.size)
	for at := int64(0); at < file.size; {
		n, err := in.Read(buf)
		if err != nil {
			return fmt.Errorf("load weights from %s at byte %d of %d: %w", file.path, at, file.size, err)
		}
		addEdges(sum, buf[:n], at, file.size)
		at += int64(n)
		w.read.Add(int64(n))
		if err := each(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// addEdges adds to sum what of data, found at offset at, lies in the first or last MiB of size bytes.
func addEdges(sum *xxh3.Hasher, data []byte, at, size int64) {
	if head := min(edge, size) - at; head > 0 {
		_, _ = sum.Write(data[:min(head, int64(len(data)))])
	}
	if skip := max(size-edge, edge) - at; skip < int64(len(data)) {
		_, _ = sum.Write(data[max(skip, 0):])
	}
}

// fail carries out the failures that belong to loading. Those meant for later bytes than there are come at the end.
func (w *weights) fail(ctx context.Context, f *faults) error {
	reached := func(v Failure) bool { return w.read.Load() >= min(int64(v.number(0)), w.total) }
	if v, ok := f.get(CrashLoading); ok && reached(v) {
		return &ExitError{int(v.number(1)), fmt.Sprintf("simulated failure: crashed after %d bytes of weights", w.read.Load())}
	}
	for {
		v, ok := f.get(StallLoading)
		if !ok || !reached(v) {
			return nil
		}
		select {
		case <-f.changed():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pace waits until n bytes since start are no faster than rate.
func pace(ctx context.Context, start time.Time, n, rate int64) error {
	if rate == 0 {
		return nil
	}
	t := time.NewTimer(time.Until(start.Add(time.Duration(float64(n) / float64(rate) * float64(time.Second)))))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reporter writes progress lines, not more often than reportEvery.
type reporter struct {
	w    *weights
	to   io.Writer
	last time.Time
}

func (r *reporter) maybe() {
	if time.Since(r.last) >= reportEvery {
		r.line()
	}
}

func (r *reporter) line() {
	r.last = time.Now()
	fmt.Fprintf(r.to, "loading weights %d/%d bytes\n", r.w.read.Load(), r.w.total)
}
