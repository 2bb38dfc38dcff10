package faults

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/installation"
	"github.com/penstock/penstock/tests/traffic"
)

// A machine's clock cannot be stepped under other users, and a time namespace shifts no wall clock. So the program is built
// with another time.Now, whose wall clock is ahead by what a file in TMPDIR says; everything else of the standard library
// and of the program is as it is. What it shows: all processes of an installation, under steps of the wall clock, with a
// monotonic clock that goes on, as clock_settime(2) does it. What it does not show: times that the kernel writes (files').

const steppedNow = `package time

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

var step = func() *int64 {
	dir, _ := syscall.Getenv("TMPDIR")
	fd, err := syscall.Open(dir+"/clock", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return new(int64)
	}
	defer syscall.Close(fd)
	b, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return new(int64)
	}
	return (*int64)(unsafe.Pointer(&b[0]))
}()

func stepped() int64 { return atomic.LoadInt64(step) }
`

// buildStepped builds the program with a wall clock that can be stepped.
func buildStepped(t *testing.T) string {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	original := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	source, err := os.ReadFile(original)
	if err != nil {
		t.Fatal(err)
	}
	const now = "sec, nsec, mono := runtimeNow()\n"
	if strings.Count(string(source), now) != 1 {
		t.Fatalf("time.Now of %s is not as expected: teach this test the new one", runtime.Version())
	}
	overlay := map[string]string{
		original: "time.go", filepath.Join(filepath.Dir(original), "stepped.go"): "stepped.go",
	}
	for name, text := range map[string]string{
		"time.go": strings.Replace(string(source), now, now+"\tsec += stepped()\n", 1), "stepped.go": steppedNow,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for original, name := range overlay {
		overlay[original] = filepath.Join(dir, name)
	}
	text, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "penstock")
	cmd := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary, "github.com/penstock/penstock/cli/penstock")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build with a clock that can be stepped: %v\n%s", err, out)
	}
	return binary
}

// clock is the wall clock of all processes of an installation.
type clock struct {
	t    *testing.T
	file *os.File
}

func newClock(t *testing.T, in *installation.Installation) *clock {
	t.Helper()
	f, err := os.Create(filepath.Join(in.Dir, "clock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	c := &clock{t, f}
	c.set(0)
	return c
}

// set puts the clock ahead of the true time, in one step and for all processes at once.
func (c *clock) set(ahead time.Duration) {
	c.t.Helper()
	if _, err := c.file.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(int64(ahead/time.Second))), 0); err != nil {
		c.t.Fatal(err)
	}
}

// TestClockStepped: the wall clock jumps forth and back under everything. What runs goes on, and what breaks while the clock
// is wrong is replaced.
func TestClockStepped(t *testing.T) {
	w := setup(t)
	w.Binary = buildStepped(t)
	wall := newClock(t, w.Installation)
	w.serve()
	w.deploy("web", deployment("serving: {orphanAfter: 20s}"))
	w.connect()
	other := w.gateway("other")
	own, others := w.traffic(w.client), w.traffic(other.Client)
	before := w.runs("web")
	w.fault(func() { wall.set(2 * time.Hour) })
	settle := func() {
		t.Helper()
		own.Finished(w.ctx, traffic.Streams)
		others.Finished(w.ctx, traffic.Streams)
		w.until("both replicas are ready", ready("web", 2))
	}
	settle()
	for _, step := range []time.Duration{0, 3 * time.Hour, time.Hour, -time.Hour, 2 * time.Hour} {
		wall.set(step)
		settle()
	}
	w.same("web", before)

	// A run that begins while the clock is ahead, and is there when it is right again.
	w.engines = w.survey("web")
	victim := w.busiest()
	w.signal(syscall.SIGKILL, w.process(victim.Launch, "agent"))
	w.replaced("web", 2, victim)
	settle()
	wall.set(0)
	settle()
	after := w.runs("web")
	w.pause(5)
	settle()
	w.same("web", after)
	w.finish(11, "clock stepped: 2 h forth, 3 h back, and others")
}
