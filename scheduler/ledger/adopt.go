package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/penstock/penstock/scheduler/statefile"
)

// adopt makes the folder of a new term: a second name (link) for every file of the newest intent that is still of use.
// An older controller that writes late replaces its own names only. The folder gets its name when it is complete, so a
// crash leaves the older intent in force. Then older folders go.
func (l *Ledger) adopt(term uint64) (err error) {
	for range loadTries { // a holder that was presumed dead may finish its own adoption, and sweep, meanwhile
		if err = l.adoptOnce(term); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return err
}

func (l *Ledger) adoptOnce(term uint64) error {
	in, err := l.load()
	if err != nil {
		return err
	}
	switch {
	case in.term > term:
		return fmt.Errorf("%s: %w", l.intentPath(in.term), ErrTermLost)
	case in.term == term: // it is ours: the rename was done before, and its answer got lost
	default:
		if err := l.moveIn(term, in); err != nil {
			return err
		}
	}
	if err := l.o.FS.SyncDir(filepath.Join(l.dir, intentDir)); err != nil {
		return err
	}
	if err := l.CheckTerm(); err != nil {
		return err
	}
	in.state.savedEpoch = in.state.epoch
	l.mu.Lock()
	l.state, l.problems = in.state, in.problems
	l.mu.Unlock()
	l.loadEvents()
	l.sweepIntent(term)
	return nil
}

// moveIn makes the folder of a new term.
func (l *Ledger) moveIn(term uint64, in intent) error {
	l.forget(in.state)
	tmp := statefile.TempName(l.intentPath(term))
	err := l.fill(tmp, l.intentPath(in.term), term, in.state)
	if err == nil {
		err = l.quarantine(in.problems)
	}
	if err != nil {
		_ = l.o.FS.RemoveAll(tmp) // best effort: the next term sweeps it
		return err
	}
	return l.o.FS.Rename(tmp, l.intentPath(term))
}

// fill links or writes everything of st into a new folder and makes it durable.
func (l *Ledger) fill(root, old string, term uint64, st *state) error {
	for _, dir := range []string{root, filepath.Join(root, launchesDir), filepath.Join(root, deploymentsDir)} {
		if err := l.o.FS.Mkdir(dir); err != nil {
			return err
		}
	}
	data, err := json.Marshal(countersRecord{Format: format, Term: term, Epoch: st.epoch})
	if err != nil {
		return err
	}
	for id := range st.launches {
		if err := l.link(launchPath(old, id), launchPath(root, id)); err != nil {
			return err
		}
	}
	for _, d := range st.deployments {
		if err := l.linkDeployment(old, root, d); err != nil {
			return err
		}
	}
	for _, dir := range []string{launchesDir, deploymentsDir} {
		if err := l.o.FS.SyncDir(filepath.Join(root, dir)); err != nil {
			return err
		}
	}
	return statefile.Write(l.o.FS, filepath.Join(root, countersFile), data) // syncs root
}

// linkDeployment takes along what the record names. Of a damaged one it takes all, for a person to look at.
func (l *Ledger) linkDeployment(old, root string, d *deployment) error {
	from, to := filepath.Join(old, deploymentsDir, d.rec.Name), filepath.Join(root, deploymentsDir, d.rec.Name)
	files := []string{stateFile}
	for _, r := range d.rec.Revisions {
		files = append(files, revisionName(r.Number))
	}
	if d.damaged != "" {
		all, err := l.o.FS.List(from)
		if err != nil {
			return err
		}
		files = all
	}
	if err := l.o.FS.Mkdir(to); err != nil {
		return err
	}
	for _, f := range files {
		if statefile.IsTemp(f) {
			continue
		}
		err := l.link(filepath.Join(from, f), filepath.Join(to, f))
		if n, ok := revisionNumber(f); ok && errors.Is(err, fs.ErrNotExist) {
			if _, readable := d.specs[n]; !readable {
				continue // it was missing before
			}
		}
		if err != nil {
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

// quarantine keeps the files that are left out of the new folder, under names such as 7_launches_x.json.
func (l *Ledger) quarantine(problems []Problem) error {
	dir := filepath.Join(l.dir, quarantineDir)
	for _, p := range problems {
		rel, err := filepath.Rel(filepath.Join(l.dir, intentDir), p.Path)
		if err != nil {
			return err
		}
		if !leftOut(rel) {
			continue
		}
		if err := statefile.MakeDir(l.o.FS, dir); err != nil {
			return err
		}
		err = l.link(p.Path, filepath.Join(dir, strings.ReplaceAll(rel, string(filepath.Separator), "_")))
		if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// leftOut: damaged files of deployments stay in their place, where Apply repairs them.
func leftOut(rel string) bool {
	return filepath.Base(rel) == countersFile || filepath.Base(filepath.Dir(rel)) == launchesDir
}

// sweepIntent removes older folders and what crashes left of them, as best it can: nobody needs them. A folder loses
// its name first, so that nobody reads half of it. Newer ones are not ours to touch: this process may have been asleep.
func (l *Ledger) sweepIntent(term uint64) {
	dir := filepath.Join(l.dir, intentDir)
	names, err := l.o.FS.List(dir)
	if err != nil {
		return
	}
	for _, name := range names {
		first, _, _ := strings.Cut(name, ".") // N, N.tmp-...
		if n, ok := parseNumber(first); !ok || n >= term {
			continue
		}
		path := filepath.Join(dir, name)
		if !statefile.IsTemp(name) {
			gone := statefile.TempName(path)
			if l.o.FS.Rename(path, gone) != nil {
				continue
			}
			path = gone
		}
		_ = l.o.FS.RemoveAll(path)
	}
}

// forget drops from a state that was just read what need not go into the next term.
func (l *Ledger) forget(st *state) {
	for _, id := range expired(st.launches, l.o.Now(), l.o.KeepEnded, l.o.KeepEndedFor) {
		if d := st.deployments[st.launches[id].Deployment]; d != nil && d.capped() {
			continue // prune counts it first
		}
		delete(st.launches, id)
	}
	used := map[string]bool{}
	for _, x := range st.launches {
		used[x.Deployment] = true
	}
	for name, d := range st.deployments {
		if d.rec.Removed && !used[name] {
			delete(st.deployments, name)
		}
	}
}
