package process

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hogBytes takes the kernel long enough to give back that looks at the process table fall into that time: 50 ms and more
// on the machines of 2026, where a look takes one or two.
const hogBytes = 256 << 20

// helpHog plays an engine's worker: much memory, deaf to SIGTERM.
func helpHog() error {
	memory, err := unix.Mmap(-1, 0, hogBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	_ = unix.Madvise(memory, unix.MADV_NOHUGEPAGE) // small pages take longest
	for i := 0; i < len(memory); i += os.Getpagesize() {
		memory[i] = 1
	}
	if err := os.WriteFile(filepath.Join(os.Getenv("DIR"), strconv.Itoa(os.Getpid())), nil, 0o600); err != nil {
		return err
	}
	time.Sleep(time.Hour)
	return nil
}

// A process that gives its memory back shows no environment any more and is not yet dead: it holds its files, and an
// engine's its GPU. Another tree runs beside, so that an orphan belongs to this one by its environment only.
func TestStopWaitsForWhatIsDying(t *testing.T) {
	t.Parallel()
	start(t, Spec{}, `sleep 1000`)
	dir := t.TempDir()
	p, _ := start(t, Spec{
		Argv: []string{"sh", "-c", `for i in 1 2; do (setsid "$0" &) ; done; sleep 1000`, os.Args[0]},
		Env:  []string{envHelper + "=hog", "DIR=" + dir},
	}, "")
	procs := pids(t, dir, 2)
	if err := p.Stop(within(t), 0); err != nil {
		t.Fatal(err)
	}
	wantGone(t, procs)
}

func TestSweepWaitsForWhatIsDying(t *testing.T) {
	t.Parallel()
	mark, dir := newMark(), t.TempDir()
	pid, err := syscall.ForkExec(os.Args[0], os.Args[:1], &syscall.ProcAttr{
		Env: append(mark.Environ(), envHelper+"=hog", "DIR="+dir),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = syscall.Wait4(pid, nil, 0, nil) })
	procs := pids(t, dir, 1)
	killed, err := Sweep(within(t), Leftovers{Launch: mark.Launch})
	if err != nil || len(killed) != 1 {
		t.Errorf("killed %v, %v", killed, err)
	}
	wantGone(t, procs)
}

// helpThreads plays a program whose first thread ends before the others: it shows as a zombie that lives.
func helpThreads() error {
	if err := os.WriteFile(filepath.Join(os.Getenv("DIR"), strconv.Itoa(os.Getpid())), nil, 0o600); err != nil {
		return err
	}
	if unix.Gettid() == os.Getpid() { // init has locked the main goroutine to the first thread
		_, _, _ = unix.Syscall(unix.SYS_EXIT, 0, 0, 0)
	}
	return errors.New("not the first thread")
}

func TestFirstThreadMayEndBeforeTheOthers(t *testing.T) {
	t.Parallel()
	mark, dir := newMark(), t.TempDir()
	start(t, Spec{Argv: os.Args[:1], Mark: mark, Env: []string{envHelper + "=threads", "DIR=" + dir}}, "")
	p := pids(t, dir, 1)[0]
	eventually(t, "the first thread has ended", func() bool {
		now, err := readStat(p.PID)
		return err == nil && now.State == 'Z'
	})
	if who := identify(p.PID); who.Mark != mark || who.veiled {
		t.Errorf("it shows %+v, want the mark %+v", who, mark)
	}
	if !runs(p) {
		t.Error("it is taken for dead")
	}
}

// storm starts two of its kind, each a daemon, and stays.
const storm = `: >$1/$$; trap '' TERM; N=$((N-1)); [ $N -gt 0 ] && for i in 1 2; do (N=$N setsid sh -c "$STORM" sh $1 &) ; done; while :; do sleep 1; done`

func TestStopEndsAStormOfDaemons(t *testing.T) {
	t.Parallel()
	mark := newMark()
	p, dir := start(t, Spec{Env: []string{"STORM=" + storm, "N=8"}, Mark: mark}, `eval "$STORM"`)
	count := func() int {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	eventually(t, "it storms", func() bool { return count() > 20 })
	if err := p.Stop(within(t), 0); err != nil {
		t.Fatal(err)
	}
	before := count()
	left, err := Find(Leftovers{Launch: mark.Launch})
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	time.Sleep(20 * time.Millisecond)
	if after := count(); after > before {
		t.Errorf("%d processes have begun after Stop", after-before)
	}
}
