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
	"time"

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

// Processes that show nothing of whose they are, but only for now, are waited for: the others of this user may hang on their
// way in or out for long, and are none of a job's.
const (
	doubt = time.Second           // by those who cannot look again later
	blink = 20 * time.Millisecond // by those who can: what becomes a program mostly shows it by then
)

// find is search for those who cannot look again later.
func find(m mark) ([]found, error) {
	list, _, err := search(m, doubt)
	return list, err
}

// search lists the living processes of this user that carry the mark, this process itself left out. What does not show its
// environment (another user's, or one that has overwritten it) is not found. veiled: some show nothing still, after the
// patience, and may carry it. An error means that an empty list would say nothing.
func search(m mark, patience time.Duration) (list []found, veiled bool, err error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, false, fmt.Errorf("list processes: %w", err)
	}
	names, err := dir.Readdirnames(-1)
	_ = dir.Close()
	if err != nil {
		return nil, false, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	list, pids = m.among(pids)
	for begun := time.Now(); len(pids) > 0 && time.Since(begun) < patience; {
		time.Sleep(time.Millisecond)
		more, left := m.among(pids)
		list, pids = append(list, more...), left
	}
	return list, len(pids) > 0, nil
}

// among finds those that carry the mark, and those that show nothing for now.
func (m mark) among(pids []int) (list []found, veiled []int) {
	for _, pid := range pids {
		switch got, shows := markOf(pid); {
		case shows == nothingYet:
			veiled = append(veiled, pid)
		case shows == aMark && m.matches(got):
			list = append(list, found{pid: pid, parent: readStat(pid).parent, mark: got})
		}
	}
	return list, veiled
}

func (m mark) matches(got mark) bool {
	if m.shim != "" {
		return got.shim == m.shim || strings.HasPrefix(got.shim, m.shim+"/")
	}
	return got.shim == "" && m.Launch == got.Launch && m.Run == got.Run && (m.Rank == "" || m.Rank == got.Rank)
}

// maxEnviron bounds how much of an environment is read: more than the kernel lets a program have by default.
const maxEnviron = 8 << 20

// shown is what a process shows of where it belongs.
type shown int

const (
	noMark     shown = iota // it has none, or may not be looked at
	aMark                   //
	nothingYet              // it gives its memory back, or becomes another program, just now
)

// markOf reads the mark of a process of this user.
func markOf(pid int) (mark, shown) {
	dir := "/proc/" + strconv.Itoa(pid)
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil || int(st.Uid) != os.Geteuid() {
		return mark{}, noMark
	}
	environ, err := readEnviron(dir + "/environ")
	if err != nil && !gone(err) { // some kernels call the environment gone where others show an empty one
		return mark{}, noMark
	}
	for look := 0; len(environ) == 0; look++ { // so it is of a zombie and of a program without one too
		now := readStat(pid)
		environ = environOfThreads(dir) // also of the first one again, which may just have become a program
		switch {
		case len(environ) > 0:
		case now.dead:
			return mark{}, noMark
		case now.ending || !now.loaded:
			return mark{}, nothingYet
		case look == emptyLooks:
			return mark{}, noMark
		}
	}
	if m, ok := parseMark(environ); ok {
		return m, aMark
	}
	return mark{}, noMark
}

// emptyLooks is how often a program that shows an empty environment is looked at again: it may become one program after
// another.
const emptyLooks = 2

func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }

func readEnviron(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxEnviron))
}

// environOfThreads reads the environment from the first thread that shows it: a process lives on when its first thread,
// for which it is named, has ended.
func environOfThreads(dir string) []byte {
	threads, err := os.ReadDir(dir + "/task")
	if err != nil {
		return nil
	}
	for _, thread := range threads {
		if environ, err := readEnviron(dir + "/task/" + thread.Name() + "/environ"); err == nil && len(environ) > 0 {
			return environ
		}
	}
	return nil
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

// stat is what /proc/PID/stat tells of a process.
type stat struct {
	parent int  // 0 = unknown
	dead   bool // only its entry in the process table is left, or not even that
	ending bool // on its way out; it may still hold memory and a GPU
	loaded bool // runs a program and shows where its environment is, or is a thread of the kernel, which has none
}

// Places of the fields of /proc/PID/stat, counted from the state, the first after the name, and bits of the kernel's flags:
// PF_EXITING and PF_KTHREAD.
const (
	statState, statParent, statFlags, statThreads, statEnvEnd = 0, 1, 6, 17, 48

	flagEnding = 0x4
	flagKernel = 0x200000
)

// readStat reads one process; what cannot be read is dead.
func readStat(pid int) stat {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{dead: true}
	}
	return parseStat(text)
}

func parseStat(text []byte) stat {
	// The name in parentheses may hold anything: the fields begin after the last one.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) <= statThreads {
		return stat{dead: true}
	}
	number := func(field int) int {
		n, _ := strconv.Atoi(fields[field]) // not a number: 0, which means unknown
		return n
	}
	flags := number(statFlags)
	return stat{
		parent: number(statParent),
		dead:   fields[statState] == "X" || fields[statState] == "Z" && number(statThreads) <= 1, // the state is the first thread's
		ending: flags&flagEnding != 0,
		loaded: flags&flagKernel != 0 || len(fields) > statEnvEnd && fields[statEnvEnd] != "0",
	}
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
		if err := p.signal(sig); err != nil && !gone(err) {
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
	if now, _ := markOf(p.pid); now != p.mark {
		return nil // it ended or is about to, or its number names another process now
	}
	return unix.PidfdSendSignal(fd, sig, nil, 0)
}
