package nomad

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// processesOf lists the processes of an allocation on this machine, by their environment.
func processesOf(alloc string) (pids []int) {
	names, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil || !strings.Contains("\x00"+string(text), "\x00NOMAD_ALLOC_ID="+alloc+"\x00") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
