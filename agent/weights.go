package agent

import (
	"os"
	"path/filepath"
)

// weightsSize is the size in bytes of the weights at a path: a file, or a folder with files of weights in it. It is 0 where
// that cannot be told.
func weightsSize(path string) uint64 {
	if path == "" {
		return 0
	}
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	if !info.IsDir() {
		return uint64(info.Size())
	}
	// The first pattern that finds anything counts: a folder may hold the same weights in two forms.
	for _, pattern := range []string{"*.safetensors", "*.gguf", "*.bin", "*.pt", "*.pth"} {
		if total := sizeOf(filepath.Join(path, pattern)); total > 0 {
			return total
		}
	}
	return 0
}

func sizeOf(pattern string) (total uint64) {
	names, _ := filepath.Glob(pattern)
	for _, name := range names {
		if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
			total += uint64(info.Size())
		}
	}
	return total
}
