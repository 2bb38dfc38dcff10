package gpu

import (
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// ForeignProcess is a process of someone else on a card that is meant for us.
type ForeignProcess struct {
	GPU     string // UUID
	PID     int
	Memory  *uint64 // bytes
	User    string  // empty: unknown
	Command string  // empty: unknown
}

func (f ForeignProcess) String() string {
	known := func(s string) string {
		if s == "" {
			return "unknown"
		}
		return s
	}
	memory := "unknown memory"
	if f.Memory != nil {
		memory = fmt.Sprintf("%.1f GiB", float64(*f.Memory)/(1<<30))
	}
	return fmt.Sprintf("process %d (%s of user %s, %s) on %s", f.PID, known(f.Command), known(f.User), memory, f.GPU)
}

// Foreign finds the processes on the given cards that are not ours, as who names them; each card or instance stands for
// itself. Unknown holds those of the cards of which the sample cannot tell: they are not known to be free.
func Foreign(s Sample, uuids []string, isOurs func(pid int) bool, who func(pid int) (user, command string)) (found []ForeignProcess, unknown []string) {
	for _, uuid := range uuids {
		i := slices.IndexFunc(s.GPUs, func(g GPU) bool { return g.UUID == uuid })
		if i < 0 || s.GPUs[i].Processes == nil {
			unknown = append(unknown, uuid)
			continue
		}
		for _, p := range s.GPUs[i].Processes {
			if isOurs(p.PID) {
				continue
			}
			user, command := who(p.PID)
			found = append(found, ForeignProcess{GPU: uuid, PID: p.PID, Memory: p.Memory, User: user, Command: command})
		}
	}
	return found, unknown
}

// Who looks a process up in /proc: the name of its user, or the user ID where that has no name, and the kernel's short
// name of the program, never its arguments, which may hold secrets. Both are empty where it is gone or not to be seen,
// for one because this process runs in a PID namespace of its own.
func Who(pid int) (name, command string) {
	dir := "/proc/" + strconv.Itoa(pid)
	comm, err := os.ReadFile(dir + "/comm")
	if err != nil {
		return "", ""
	}
	command = printable(strings.TrimSpace(string(comm)))
	info, err := os.Stat(dir)
	if err != nil {
		return "", command
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", command
	}
	name = strconv.FormatUint(uint64(st.Uid), 10)
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	return name, command
}

// printable makes a name that a stranger chose fit for a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
