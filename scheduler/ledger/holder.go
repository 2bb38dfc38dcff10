package ledger

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Holder names the one process that holds a term.
type Holder struct {
	Hostname     string    `json:"hostname"`
	PID          int       `json:"pid"`
	BootID       string    `json:"boot_id"`       // the kernel's, new at each boot
	PIDNamespace string    `json:"pid_namespace"` // PIDs mean something inside one only
	ProcessStart uint64    `json:"process_start"` // clock ticks since boot, as in /proc/PID/stat
	Nonce        string    `json:"nonce"`         // drawn per process
	StartedAt    time.Time `json:"started_at"`
}

// ThisProcess describes the calling process. What /proc does not tell stays empty: then only the lease tells whether
// the holder is alive.
func ThisProcess(now time.Time) (Holder, error) {
	host, err := os.Hostname()
	if err != nil {
		return Holder{}, fmt.Errorf("own host name: %w", err)
	}
	h := Holder{Hostname: host, PID: os.Getpid(), Nonce: rand.Text(), StartedAt: now}
	h.BootID, h.PIDNamespace = bootID(), pidNamespace()
	h.ProcessStart, _, _ = processStart(h.PID)
	return h, nil
}

// alive looks the process up where it ran here: on this boot of this host, in this PID namespace.
func alive(h Holder) (alive, known bool) {
	if h.BootID == "" || h.BootID != bootID() || h.PIDNamespace == "" || h.PIDNamespace != pidNamespace() || h.ProcessStart == 0 {
		return false, false
	}
	start, running, err := processStart(h.PID)
	if os.IsNotExist(err) {
		return false, true
	}
	if err != nil {
		return false, false
	}
	return running && start == h.ProcessStart, true
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return string(bytes.TrimSpace(b))
}

func pidNamespace() string {
	s, _ := os.Readlink("/proc/self/ns/pid")
	return s
}

// processStart reads when a process started, and whether it still does something: a zombie does not.
func processStart(pid int) (start uint64, running bool, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false, err
	}
	// The command's name, in parentheses, may hold anything; fields are counted behind it: state is 3, starttime is 22.
	_, rest, ok := strings.Cut(string(b[bytes.LastIndexByte(b, ')')+1:]), " ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, false, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return start, fields[0] != "Z" && fields[0] != "X", err
}
