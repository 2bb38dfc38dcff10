package cache

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/zeebo/blake3"
)

// How much of the weights is read. All of a small file; of a large one its head, where formats have their metadata, its end,
// and samples evenly over the rest: a training step or a merged adapter changes nearly all tensors.
const (
	wholeFile  = 64 << 20
	headBytes  = 4 << 20
	tailBytes  = 1 << 20
	sampleSize = 64 << 10
	samples    = 128 // over all files together
)

// Fingerprint tells weights apart by what is in them: a file, or a folder with all its files but the hidden ones. Names
// count, times and places do not.
func Fingerprint(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("fingerprint of the weights: %w", err)
	}
	files := []string{path}
	if info.IsDir() {
		if files, err = filesOf(path); err != nil {
			return "", fmt.Errorf("fingerprint of the weights: %w", err)
		}
	}
	h := blake3.New()
	for _, f := range files {
		name := ""
		if info.IsDir() {
			name = filepath.Base(f)
		}
		if err := digest(h, f, name, max(samples/len(files), 4)); err != nil {
			return "", fmt.Errorf("fingerprint of the weights: %w", err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

func filesOf(dir string) (files []string, err error) {
	entries, err := os.ReadDir(dir) // by name
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		files = append(files, path)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s has no files", dir)
	}
	return files, nil
}

func digest(h *blake3.Hasher, path, name string, n int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var head [16]byte
	binary.LittleEndian.PutUint64(head[:8], uint64(info.Size()))
	binary.LittleEndian.PutUint64(head[8:], uint64(len(name)))
	_, _ = h.Write(append(head[:], name...))
	for _, p := range pieces(info.Size(), n) {
		if _, err := io.Copy(h, io.NewSectionReader(f, p[0], p[1])); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return nil
}

// pieces are the offsets and lengths of what is read of a file.
func pieces(size int64, n int) (all [][2]int64) {
	if size <= wholeFile {
		return [][2]int64{{0, size}}
	}
	all = append(all, [2]int64{0, headBytes})
	rest := size - headBytes - tailBytes
	for i := range int64(n) {
		all = append(all, [2]int64{headBytes + rest/int64(n)*i, sampleSize})
	}
	return append(all, [2]int64{size - tailBytes, tailBytes})
}
