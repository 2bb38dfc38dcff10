package attack

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// fileArgs are what there is, as only the victim can list it.
type fileArgs struct {
	Folders, Files []string
	Loot           string // a folder of the attacker's
	ReadOnly       bool   // for the control
}

// attackFiles goes for everything that the installation has on disk: state, keys, join files, logs, usage, sockets.
func attackFiles(t *testing.T, s *siege) {
	args := fileArgs{Loot: s.mallory.home}
	for _, e := range s.belongings(t) {
		if e.info.IsDir() {
			args.Folders = append(args.Folders, e.path)
		} else {
			args.Files = append(args.Files, e.path)
		}
	}
	for _, needed := range []string{"ca/authority.pem", "ca/join.secret", "owner.pem", "cache-salt.key", "endpoint.json", "events.jsonl", "serve.log"} {
		if _, err := os.Stat(filepath.Join(s.victim.State(), needed)); err != nil {
			t.Errorf("the attack has lost its aim: %v", err)
		}
	}
	t.Logf("%d folders and %d files under %s and %s", len(args.Folders), len(args.Files), s.victim.State(), s.runtimeDir(s.alice))
	s.fails(t, "files", args, denied...)
	args.ReadOnly = true
	s.works(t, "files", args)
}

// belonging is one thing on disk.
type belonging struct {
	path string
	info fs.FileInfo
}

// belongings lists all that Penstock has made for the victim.
func (s *siege) belongings(t *testing.T) (list []belonging) {
	t.Helper()
	for _, root := range []string{s.victim.State(), s.runtimeDir(s.alice)} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil //nolint:nilerr // it went away while we looked
			}
			if info, err := d.Info(); err == nil {
				list = append(list, belonging{path, info})
			}
			return nil
		})
		must(t, err)
	}
	return list
}

func init() { tricks["files"] = tryFiles }

func tryFiles(in []byte, n *notes) error {
	var args fileArgs
	if err := json.Unmarshal(in, &args); err != nil {
		return err
	}
	for _, dir := range args.Folders {
		_, err := os.ReadDir(dir)
		n.try("list a folder", dir, err)
		if !args.ReadOnly {
			spoilFolder(dir, args.Loot, n)
		}
	}
	for _, name := range args.Files {
		f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err == nil {
			_ = f.Close()
		}
		if args.ReadOnly && err != nil {
			continue // a socket
		}
		n.try("read a file", name, err)
		if !args.ReadOnly {
			spoilFile(name, args.Loot, n)
		}
	}
	return nil
}

func spoilFolder(dir, loot string, n *notes) {
	n.try("make a folder in a folder", dir, os.Mkdir(filepath.Join(dir, "planted"), 0o777))
	n.try("plant a link in a folder", dir, os.Symlink(loot, filepath.Join(dir, "link")))
	n.try("open a folder to all", dir, os.Chmod(dir, 0o777))
	n.try("move a folder away", dir, os.Rename(dir, filepath.Join(filepath.Dir(dir), "moved")))
	n.try("remove a folder", dir, os.Remove(dir))
}

func spoilFile(name, loot string, n *notes) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_ = f.Close()
	}
	n.try("append to a file", name, err)
	n.try("cut a file", name, os.Truncate(name, 0))
	n.try("open a file to all", name, os.Chmod(name, 0o666))
	n.try("make a hard link to a file", name, os.Link(name, filepath.Join(loot, "link-"+filepath.Base(name))))
	n.try("move a file away", name, os.Rename(name, filepath.Join(loot, filepath.Base(name))))
	n.try("remove a file", name, os.Remove(name))
}
