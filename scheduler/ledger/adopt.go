package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/penstock/penstock/scheduler/statefile"
)

// adopt makes the folder of a new term: a second name (link) for every file of the newest intent that is still of use.
// An older controller that writes late replaces its own names only. The folder gets its name when it is complete, so a crash leaves
// the older intent in force. Then older folders go.
func (l *Ledger) adopt(term uint64) error {
	old, err := l.newestIntent()
	if err != nil {
		return err
	}
	if old >= term {
		return fmt.Errorf("%s is newer than term %d: somebody has removed files from %s", l.intentPath(old), term, filepath.Join(l.dir, termsDir))
	}
	st, problems, err := l.load()
	if err != nil {
		return err
	}
	l.forget(st)
	tmp := statefile.TempName(l.intentPath(term))
	if err := l.fill(tmp, l.intentPath(old), term, st); err != nil {
		_ = l.o.FS.RemoveAll(tmp) // best effort: the next term sweeps it
		return err
	}
	if err := l.quarantine(problems); err != nil {
		return err
	}
	if err := l.o.FS.Rename(tmp, l.intentPath(term)); err != nil {
		return err
	}
	if err := l.o.FS.SyncDir(filepath.Join(l.dir, intentDir)); err != nil {
		return err
	}
	st.savedEpoch = st.epoch
	l.mu.Lock()
	l.state, l.problems = st, problems
	l.mu.Unlock()
	l.loadEvents()
	l.sweepIntent(term)
	return nil
}

// fill links or writes everything of st into a new folder and makes it durable.
func (l *Ledger) fill(root, old string, term uint64, st *state) error {
	for _, dir := range []string{root, filepath.Join(root, launchesDir), filepath.Join(root, deploymentsDir)} {
		if err := statefile.MkdirAll(l.o.FS, dir); err != nil {
			return err
		}
	}
	data, err := json.Marshal(countersRecord{Format: format, Term: term, Epoch: st.epoch})
	if err != nil {
		return err
	}
	if err := statefile.Write(l.o.FS, filepath.Join(root, countersFile), data); err != nil {
		return err
	}
	for id := range st.launches {
		if err := l.link(launchPath(old, id), launchPath(root, id)); err != nil {
			return err
		}
	}
	for name := range st.deployments {
		if err := l.linkDeployment(old, root, name); err != nil {
			return err
		}
	}
	if err := l.o.FS.SyncDir(filepath.Join(root, launchesDir)); err != nil {
		return err
	}
	return l.o.FS.SyncDir(filepath.Join(root, deploymentsDir))
}

// linkDeployment takes damaged files along: they stay where a person can look at them.
func (l *Ledger) linkDeployment(old, root, name string) error {
	from, to := filepath.Join(old, deploymentsDir, name), filepath.Join(root, deploymentsDir, name)
	files, err := l.o.FS.List(from)
	if err != nil {
		return err
	}
	if err := l.o.FS.Mkdir(to); err != nil {
		return err
	}
	for _, f := range files {
		if statefile.IsTemp(f) {
			continue
		}
		if err := l.link(filepath.Join(from, f), filepath.Join(to, f)); err != nil {
			return err
		}
	}
	return l.o.FS.SyncDir(to)
}

// link gives a file a second name, or copies it where the file system has no links between folders.
func (l *Ledger) link(from, to string) error {
	err := l.o.FS.Link(from, to)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	data, rerr := l.o.FS.Read(from, maxRecord)
	if rerr != nil {
		return errors.Join(err, rerr)
	}
	return statefile.Write(l.o.FS, to, data)
}

// quarantine keeps the files that were left out of the new folder.
func (l *Ledger) quarantine(problems []Problem) error {
	if len(problems) == 0 {
		return nil
	}
	dir := filepath.Join(l.dir, quarantineDir)
	if err := statefile.MkdirAll(l.o.FS, dir); err != nil {
		return err
	}
	for _, p := range problems {
		rel, err := filepath.Rel(filepath.Join(l.dir, intentDir), p.Path)
		if err != nil {
			return err
		}
		err = l.o.FS.Link(p.Path, filepath.Join(dir, flatten(rel)))
		if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return l.o.FS.SyncDir(dir)
}

// flatten makes one name of a path: 7_launches_x.json.
func flatten(rel string) string {
	b := []byte(rel)
	for i, c := range b {
		if c == filepath.Separator {
			b[i] = '_'
		}
	}
	return string(b)
}

// sweepIntent removes older folders and what crashes left, as best it can: nobody reads them.
func (l *Ledger) sweepIntent(term uint64) {
	dir := filepath.Join(l.dir, intentDir)
	names, err := l.o.FS.List(dir)
	if err != nil {
		return
	}
	for _, name := range names {
		if name != number(term) {
			_ = l.o.FS.RemoveAll(filepath.Join(dir, name))
		}
	}
}
