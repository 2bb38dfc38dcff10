package attack

import (
	"io/fs"
	"os"
	"syscall"
	"testing"
)

// auditModes looks at everything that a full run leaves on disk, under a umask of 0: folders 0700, files 0600, sockets for
// the owner alone, all of them the victim's, no links, nothing that runs as somebody else.
func auditModes(t *testing.T, s *siege) {
	kinds := map[string]int{}
	for _, b := range s.belongings(t) {
		s.tried++
		st := b.info.Sys().(*syscall.Stat_t)
		mode := b.info.Mode()
		if st.Uid != s.alice.uid || st.Gid != s.alice.gid {
			t.Errorf("HOLE: %s belongs to %d:%d", b.path, st.Uid, st.Gid)
		}
		if mode&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 {
			t.Errorf("HOLE: %s has mode %s", b.path, mode)
		}
		var want fs.FileMode
		switch mode.Type() {
		case 0:
			want = 0o600
			if st.Nlink != 1 {
				t.Errorf("HOLE: %s has %d names", b.path, st.Nlink)
			}
		case fs.ModeDir:
			want = 0o700
		case fs.ModeSocket:
			want = mode.Perm() &^ 0o077
		default:
			t.Errorf("HOLE: %s is no folder, file or socket: %s", b.path, mode)
			continue
		}
		if mode.Perm() != want {
			t.Errorf("HOLE: %s has mode %s", b.path, mode)
		}
		kinds[mode.Type().String()]++
	}
	t.Logf("looked at %v (d = folder, S = socket)", kinds)
	if kinds[fs.ModeSocket.String()] < 3 {
		t.Errorf("where are the sockets of the controller and of two engines? %v", kinds)
	}
	if entries, err := os.ReadDir(s.tmp); err != nil || len(entries) != 2 {
		t.Errorf("the folder for temporary files should hold two runtime folders: %v, %v", entries, err)
	}
}
