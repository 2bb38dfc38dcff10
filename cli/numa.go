package cli

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// numaOf tells which NUMA node each card of this machine belongs to, by UUID, from what NVIDIA's driver and the kernel show as files
// below root ("/"). A card of which they say nothing is left out.
func numaOf(root string) map[string]string {
	found := map[string]string{}
	files, _ := filepath.Glob(filepath.Join(root, "proc/driver/nvidia/gpus/*/information"))
	for _, file := range files {
		uuid := ""
		for line := range strings.Lines(shortText(file)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "GPU UUID" {
				uuid = strings.TrimSpace(value)
			}
		}
		pci := filepath.Base(filepath.Dir(file))
		numa := strings.TrimSpace(shortText(filepath.Join(root, "sys/bus/pci/devices", pci, "numa_node")))
		if n, err := strconv.Atoi(numa); err == nil && n >= 0 && uuid != "" { // -1: the machine has no such thing
			found[uuid] = numa
		}
	}
	return found
}

// shortText reads a short file; one that cannot be read is empty.
func shortText(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	text, _ := io.ReadAll(io.LimitReader(f, 4<<10))
	return string(text)
}
