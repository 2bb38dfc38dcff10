package nomad

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// processesOf lists the processes of an allocation on this machine.
func processesOf(alloc string) []int { return withVariable("NOMAD_ALLOC_ID", alloc) }

// withVariable lists the processes whose environment has a variable with a value.
func withVariable(name, value string) (pids []int) {
	names, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range names {
		text, err := os.ReadFile(file)
		if err != nil || !strings.Contains("\x00"+string(text), "\x00"+name+"="+value+"\x00") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
