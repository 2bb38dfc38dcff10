package faults

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/tests/installation"
	"github.com/penstock/penstock/tests/traffic"
)

// TestDiskFull: no byte can be written where the ledger and the logs are. Serving goes on, an engine that dies comes back,
// changes are refused with the reason; when there is space again, an agent that died is replaced, changes work, and no usage
// is missing.
func TestDiskFull(t *testing.T) {
	w := setup(t)
	w.smallDisk(64 << 20)
	w.serve()
	w.deploy("web", deployment())
	w.connect()
	tr := w.traffic(w.client)
	victim := w.busiest()
	ballast := w.ballast()
	w.fault(ballast.fill)

	w.refuses("no space left", "run", "--timeout", "20s", w.file("more", strings.Replace(deployment(), "name: web", "name: more", 1)))
	w.refuses("no space left", "scale", "web", "mixed=3")
	engine := w.process(victim.Launch, "engine", "sim")
	w.signal(syscall.SIGKILL, engine)
	w.until("its agent has started it again", func(st installation.Status) bool {
		now := w.Find(victim.Launch, "engine", "sim")
		return ready("web", 2)(st) && len(now) == 1 && now[0].PID != engine.PID
	})
	w.signal(syscall.SIGKILL, w.process(victim.Launch, "agent")) // its successor cannot be written down now
	w.gone(victim.Launch)
	tr.Finished(w.ctx, 2*traffic.Streams)
	w.until("the status warns", func(st installation.Status) bool {
		return strings.Contains(strings.Join(st.Warnings, "\n"), "no space left")
	})

	ballast.drop()
	w.must("scale", "web", "mixed=3")
	w.replaced("web", 3, victim)
	tr.Finished(w.ctx, traffic.Streams)
	w.finish(10, "disk full for ledger, usage and logs")
}

// refuses runs a command that must fail and say why.
func (w *world) refuses(why string, args ...string) {
	w.t.Helper()
	out, err := w.Run(w.ctx, args...)
	var exit *installation.ExitError
	if !errors.As(err, &exit) || !strings.Contains(exit.Err, why) {
		w.t.Errorf("penstock %v on a full disk: %s%v; it should fail and say %q", args, out, err, why)
	}
}

// smallDisk puts the state folder on a file system of its own.
func (w *world) smallDisk(size int) {
	w.t.Helper()
	if err := os.Mkdir(w.State(), 0o700); err != nil {
		w.t.Fatal(err)
	}
	err := unix.Mount("faults", w.State(), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=0700,size=%d", size))
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		w.t.Skip("only root can mount a small file system")
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		logs := w.logs()
		if err := unix.Unmount(w.State(), unix.MNT_DETACH); err != nil {
			w.t.Errorf("unmount %s: %v", w.State(), err)
		}
		for name, text := range logs { // for the report of a failure
			_ = os.WriteFile(filepath.Join(w.State(), strings.ReplaceAll(name, "/", "-")), text, 0o600)
		}
	})
}

// ballast fills a disk to the last byte.
type ballast struct {
	w    *world
	path string
}

func (w *world) ballast() ballast { return ballast{w, filepath.Join(w.State(), "ballast")} }

func (b ballast) fill() {
	b.w.t.Helper()
	f, err := os.Create(b.path)
	if err != nil {
		b.w.t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err := f.Write(block); errors.Is(err, unix.ENOSPC) {
			block = block[:len(block)/2]
		} else if err != nil {
			b.w.t.Fatal(err)
		}
	}
}

func (b ballast) drop() {
	b.w.t.Helper()
	if err := os.Remove(b.path); err != nil {
		b.w.t.Fatal(err)
	}
}
