package process

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Proc is one process as /proc showed it at one moment. PID and Start together name one process for as long as the
// machine is up: a recycled PID has a later Start.
type Proc struct {
	PID, PPID int
	PGID, SID int           // process group and session
	State     byte          // as in ps: R S D T Z ...
	Threads   int           // that have not ended yet, or 1
	Start     uint64        // clock ticks from boot to its start
	Command   string        // the kernel's short name, up to 15 bytes
	CPU       time.Duration // user and system time of itself and of its reaped children

	ending bool // on its way out: it runs no program any more, but may still hold memory, files and a GPU
	loaded bool // runs a program and shows where its environment is, or is a thread of the kernel, which has none
}

// dead tells whether only the entry in the process table is left: memory, files and GPU contexts are gone. The state is
// that of the first thread, which may end long before the others.
func (p Proc) dead() bool { return p.State == 'X' || p.State == 'Z' && p.Threads <= 1 }

func (p Proc) same(q Proc) bool { return p.PID == q.PID && p.Start == q.Start }

// tick is the unit of times in /proc/PID/stat: 1/USER_HZ, which is 100 on every architecture that Go knows for Linux.
const tick = 10 * time.Millisecond

// Places of the fields of /proc/PID/stat, counted from the state, the first one after the name.
const (
	statPPID   = 1
	statPGID   = 2
	statSID    = 3
	statFlags  = 6
	statUTime  = 11
	statSTime  = 12
	statCUTime = 13
	statCSTime = 14
	statThread = 17
	statStart  = 19
	statEnvEnd = 48
)

// Bits of the kernel's flags of a process: PF_EXITING and PF_KTHREAD.
const (
	flagEnding = 0x4
	flagKernel = 0x200000
)

// parseStat reads /proc/PID/stat. The name may hold spaces and parentheses: it ends at the last one.
func parseStat(line []byte) (Proc, error) {
	open, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if open < 1 || end < open {
		return Proc{}, errors.New("no process name in parentheses")
	}
	fields := strings.Fields(string(line[end+1:]))
	if len(fields) <= statStart || len(fields[0]) != 1 {
		return Proc{}, fmt.Errorf("%d fields after the name, want at least %d", len(fields), statStart+1)
	}
	var err error
	number := func(s string) uint64 {
		n, e := strconv.ParseUint(s, 10, 61) // so that four fit into one
		err = errors.Join(err, e)
		return n
	}
	// Kernel threads and foreign namespaces may show -1 for session and group.
	id := func(s string) int {
		n, e := strconv.ParseInt(s, 10, 32)
		err = errors.Join(err, e)
		return int(n)
	}
	p := Proc{
		PID:     id(strings.TrimSpace(string(line[:open]))),
		PPID:    id(fields[statPPID]),
		PGID:    id(fields[statPGID]),
		SID:     id(fields[statSID]),
		State:   fields[0][0],
		Threads: id(fields[statThread]),
		Start:   number(fields[statStart]),
		Command: strings.ToValidUTF8(string(line[open+1:end]), "?"),
	}
	flags := number(fields[statFlags])
	p.ending = flags&flagEnding != 0
	p.loaded = flags&flagKernel != 0 || len(fields) > statEnvEnd && fields[statEnvEnd] != "0"
	ticks := number(fields[statUTime]) + number(fields[statSTime]) + number(fields[statCUTime]) + number(fields[statCSTime])
	p.CPU = time.Duration(min(ticks, math.MaxInt64/uint64(tick))) * tick
	return p, err
}

// errGone means that there is no such process any more.
var errGone = errors.New("process is gone")

// readStat reads one process.
func readStat(pid int) (Proc, error) {
	var buf [1024]byte
	b, err := readInto(buf[:], procPath(pid, "stat"))
	if err != nil {
		return Proc{}, err
	}
	p, err := parseStat(b)
	if err != nil {
		return Proc{}, fmt.Errorf("read %s: %w", procPath(pid, "stat"), err)
	}
	return p, nil
}

// scan reads all processes that this one may see. What ends meanwhile is left out; what cannot be read for another
// reason than being gone or hidden is an error, so that an empty answer means empty.
func scan() ([]Proc, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	names, err := dir.Readdirnames(-1)
	_ = dir.Close()
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	all := make([]Proc, 0, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		switch p, err := readStat(pid); {
		case err == nil:
			all = append(all, p)
		case errors.Is(err, errGone), errors.Is(err, os.ErrPermission):
		default:
			return nil, fmt.Errorf("list processes: %w", err)
		}
	}
	return all, nil
}

// youngIDs is how many process IDs youngest looks at: more than a node gives out in the time of one look.
const youngIDs = 64

// youngest reads those processes whose IDs the kernel gave out last, and this one. That is a small part of the process
// table, read in a small part of the time. IDs that have begun anew at the lower end are found in the next look.
func youngest() ([]Proc, error) {
	var buf [128]byte
	b, err := readInto(buf[:], "/proc/loadavg")
	if err != nil {
		return nil, fmt.Errorf("read the last process ID: %w", err)
	}
	fields := strings.Fields(string(b))
	if len(fields) == 0 {
		return nil, errors.New("read the last process ID: /proc/loadavg is empty")
	}
	last, err := strconv.Atoi(fields[len(fields)-1])
	if err != nil {
		return nil, fmt.Errorf("read the last process ID: %w", err)
	}
	self, err := readStat(os.Getpid())
	if err != nil {
		return nil, err
	}
	found := []Proc{self}
	for pid := last; pid > max(last-youngIDs, 1); pid-- {
		if p, err := readStat(pid); err == nil && pid != self.PID {
			found = append(found, p)
		}
	}
	return found, nil
}

func procPath(pid int, name string) string { return "/proc/" + strconv.Itoa(pid) + "/" + name }

// readInto fills buf from a file of /proc and returns what it read. It bypasses os.File, whose registration with the
// poller costs more than the read, as this runs for every process of the node.
func readInto(buf []byte, path string) ([]byte, error) {
	fd, err := retry(func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, goneOr(path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	n := 0
	for n < len(buf) {
		m, err := retry(func() (int, error) { return unix.Read(fd, buf[n:]) })
		if err != nil {
			return nil, goneOr(path, err)
		}
		if m == 0 {
			break
		}
		n += m
	}
	return buf[:n], nil
}

func goneOr(path string, err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return errGone
	}
	return &os.PathError{Op: "read", Path: path, Err: err}
}

func retry(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// maxEnviron bounds how much of an environment is read: more than the kernel lets a program have by default.
const maxEnviron = 8 << 20

// readEnviron reads the environment that a process was started with. It is empty for a process that ends or becomes
// another program just now, and for a program that has overwritten it.
func readEnviron(path string) ([]byte, error) {
	for size := 16 << 10; ; size *= 4 {
		b, err := readInto(make([]byte, size), path)
		if err != nil || len(b) < size || size >= maxEnviron {
			return b, err
		}
	}
}

// describe names processes for a message: the first few and how many more.
func describe(procs []Proc) string {
	const shown = 5
	var names []string
	for _, p := range procs[:min(len(procs), shown)] {
		names = append(names, fmt.Sprintf("%d (%s, state %c)", p.PID, p.Command, p.State))
	}
	if more := len(procs) - shown; more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	if names == nil {
		return "unknown"
	}
	return strings.Join(names, ", ")
}
