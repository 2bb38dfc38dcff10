package faults

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/penstock/penstock/tests/installation"
)

// listening adds the TCP sockets on which processes of the installation listen now. A socket is told by its inode: a
// stranger may have its port later.
func listening(in *installation.Installation, seen map[string]string) map[string]string {
	open := listeners()
	for _, p := range in.Processes() {
		dir := fmt.Sprintf("/proc/%d/fd", p.PID)
		fds, _ := os.ReadDir(dir)
		for _, fd := range fds {
			link, _ := os.Readlink(filepath.Join(dir, fd.Name()))
			inode := strings.TrimSuffix(strings.TrimPrefix(link, "socket:["), "]")
			if address, ok := open[inode]; ok {
				seen[inode] = fmt.Sprintf("%s of %v", address, p.Command)
			}
		}
	}
	return seen
}

const stateListen = "0A" // in /proc/net/tcp

// listeners maps the inodes of all listening TCP sockets of this machine to their addresses.
func listeners() map[string]string {
	out := map[string]string{}
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, _ := os.ReadFile(name)
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 9 && f[3] == stateListen {
				out[f[9]] = f[1]
			}
		}
	}
	return out
}

// leftPorts lists the sockets that were seen and still listen.
func (w *world) leftPorts() (left []string) {
	open := listeners()
	for inode, who := range w.sockets {
		if _, ok := open[inode]; ok {
			left = append(left, who)
		}
	}
	return left
}

// orphans lists the processes that are left after everything was stopped. Those that are about to end get a moment.
func (w *world) orphans() (left []installation.Process) {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if left = w.Processes(); len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

// leftSockets lists unix sockets that are left where processes have had them.
func (w *world) leftSockets() (left []string) {
	_ = filepath.WalkDir(filepath.Join(w.Dir, "run"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type()&fs.ModeSocket != 0 {
			left = append(left, strings.TrimPrefix(path, w.Dir))
		}
		return nil
	})
	return left
}

// logs reads all log files, by their names in the state folder.
func (w *world) logs() map[string][]byte {
	out := map[string][]byte{}
	_ = filepath.WalkDir(w.State(), func(path string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".log" {
			name, _ := filepath.Rel(w.State(), path)
			out[name], _ = os.ReadFile(path)
		}
		return nil
	})
	return out
}
