package local

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mark tells a job's processes by their environment. An empty field matches everything.
type mark struct {
	Launch, Run, Rank string
	shim              string // value of envShim, or the job in it: finds shims, and nothing but them
}

// found is a process that carried a mark when it was looked at.
type found struct {
	pid, parent int
	mark        mark
}

// find lists the living processes of this user that carry the mark, this process itself left out. What does not show its
// environment (another user's, or one that has overwritten it) is not found. An error means that an empty list would say
// nothing.
func find(m mark) ([]found, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	names, err := dir.Readdirnames(-1)
	_ = dir.Close()
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var list []found
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == os.Getpid() {
			continue
		}
		got, ok := markOf(pid)
		if ok && m.matches(got) {
			list = append(list, found{pid: pid, parent: parentOf(pid), mark: got})
		}
	}
	return list, nil
}

func (m mark) matches(got mark) bool {
	if m.shim != "" {
		return got.shim == m.shim || strings.HasPrefix(got.shim, m.shim+"/")
	}
	return got.shim == "" && m.Launch == got.Launch && m.Run == got.Run && (m.Rank == "" || m.Rank == got.Rank)
}

// maxEnviron bounds how much of an environment is read: more than the kernel lets a program have by default.
const maxEnviron = 8 << 20

// markOf reads the mark of a process of this user; false = it has none or does not show it.
func markOf(pid int) (m mark, ok bool) {
	dir := "/proc/" + strconv.Itoa(pid)
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil || int(st.Uid) != os.Geteuid() {
		return mark{}, false
	}
	f, err := os.Open(dir + "/environ")
	if err != nil {
		return mark{}, false
	}
	defer f.Close()
	environ, err := io.ReadAll(io.LimitReader(f, maxEnviron))
	if err != nil {
		return mark{}, false
	}
	return parseMark(environ)
}

// parseMark reads a mark out of an environment as /proc shows it. Of a variable that is there twice the first one counts,
// as getenv(3) has it.
func parseMark(environ []byte) (m mark, ok bool) {
	for entry := range bytes.SplitSeq(environ, []byte{0}) {
		name, value, _ := bytes.Cut(entry, []byte("="))
		var field *string
		switch string(name) {
		case EnvLaunch:
			field = &m.Launch
		case EnvRun:
			field = &m.Run
		case EnvRank:
			field = &m.Rank
		case envShim:
			field = &m.shim
		default:
			continue
		}
		if *field == "" {
			*field = string(value)
		}
	}
	return m, m.shim != "" || m.Launch != "" && m.Run != ""
}

// parentOf reads a process's parent; 0 = unknown.
func parentOf(pid int) int {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// The name in parentheses may hold anything: the fields begin after the last one.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(fields[1]) // not a number: unknown
	return parent
}

// roots are those whose parent is not among them: of a job's processes, the agents.
func roots(list []found) (top []found) {
	in := map[int]bool{}
	for _, p := range list {
		in[p.pid] = true
	}
	for _, p := range list {
		if !in[p.parent] {
			top = append(top, p)
		}
	}
	return top
}

// send sends a signal to processes that were found. Each is held by a pidfd and looked at again before, so that a
// process that got the number of a dead one meanwhile is never hit. One that is gone is no error.
func send(list []found, sig unix.Signal) error {
	var all error
	for _, p := range list {
		if err := p.signal(sig); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, fs.ErrNotExist) {
			all = errors.Join(all, fmt.Errorf("signal process %d: %w", p.pid, err))
		}
	}
	return all
}

func (p found) signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if now, ok := markOf(p.pid); !ok || now != p.mark {
		return nil // it ended, or its number names another process now
	}
	return unix.PidfdSendSignal(fd, sig, nil, 0)
}
