package ledger

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/statefile"
)

// epochGap is left free after a launch record was lost: it may have had the highest epoch.
const epochGap = 1 << 20

// maxEpoch bounds what a file may claim: no count of runs ever comes near it.
const maxEpoch = 1 << 62

// loadTries is how often a reader begins anew because a controller took over while it read.
const loadTries = 5

// intent is what was read of one term's folder.
type intent struct {
	term     uint64 // 0 = there was none
	state    *state
	problems []Problem
}

// load reads the newest intent. A file that cannot be read becomes a Problem and costs nothing but itself.
func (l *Ledger) load() (in intent, err error) {
	for range loadTries {
		in = intent{state: newState()}
		in.term, err = l.newestIntent()
		if err != nil || in.term == 0 {
			return in, err
		}
		root := l.intentPath(in.term)
		err = l.loadFrom(root, &in)
		if err == nil || !l.gone(root) {
			return in, err
		}
	}
	return in, err
}

// gone tells whether a whole folder of a term was removed, which its successor does.
func (l *Ledger) gone(root string) bool {
	_, err := l.o.FS.List(root)
	return errors.Is(err, fs.ErrNotExist)
}

// newestIntent is the newest term whose intent is complete: the folder gets its name when it is.
func (l *Ledger) newestIntent() (uint64, error) {
	names, err := l.list(filepath.Join(l.dir, intentDir))
	if err != nil {
		return 0, err
	}
	var newest uint64
	for _, name := range names {
		if n, ok := parseNumber(name); ok {
			newest = max(newest, n)
		}
	}
	return newest, nil
}

// list is FS.List; a folder that was never made is empty.
func (l *Ledger) list(dir string) ([]string, error) {
	names, err := l.o.FS.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return names, err
}

// loadFrom fails for formats that are newer, and where the folder vanishes.
func (l *Ledger) loadFrom(root string, in *intent) error {
	if err := l.loadCounters(root, in); err != nil {
		return err
	}
	if err := l.loadLaunches(root, in); err != nil {
		return err
	}
	if len(in.problems) > 0 {
		in.state.epoch += epochGap
	}
	return l.loadDeployments(root, in)
}

// trouble sorts errors: those that end the loading are returned, others become a Problem.
func (l *Ledger) trouble(root, path string, err error, in *intent) error {
	if errors.Is(err, ErrNewerFormat) || errors.Is(err, fs.ErrNotExist) && l.gone(root) {
		return fmt.Errorf("%s: %w", path, err)
	}
	in.problems = append(in.problems, Problem{Path: path, Err: err})
	return nil
}

func (l *Ledger) loadCounters(root string, in *intent) error {
	path := filepath.Join(root, countersFile)
	var rec countersRecord
	data, err := l.o.FS.Read(path, maxRecord)
	if err == nil {
		err = decode(data, &rec)
	}
	if err == nil && rec.Epoch > maxEpoch {
		err = fmt.Errorf("it holds epoch %d", rec.Epoch)
	}
	if err != nil {
		return l.trouble(root, path, err, in)
	}
	in.state.epoch, in.state.savedEpoch = rec.Epoch, rec.Epoch
	return nil
}

func (l *Ledger) loadLaunches(root string, in *intent) error {
	dir := filepath.Join(root, launchesDir)
	names, err := l.o.FS.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if statefile.IsTemp(name) {
			continue
		}
		path := filepath.Join(dir, name)
		x, err := l.readLaunch(path)
		if errors.Is(err, fs.ErrNotExist) && !l.gone(root) {
			continue // its controller has just forgotten it
		}
		if err != nil {
			if err := l.trouble(root, path, err, in); err != nil {
				return err
			}
			continue
		}
		in.state.launches[x.ID] = &x
		in.state.epoch = max(in.state.epoch, x.Epoch)
	}
	return nil
}

func (l *Ledger) readLaunch(path string) (cluster.Launch, error) {
	data, err := l.o.FS.Read(path, maxRecord)
	if err != nil {
		return cluster.Launch{}, err
	}
	var rec launchRecord
	if err := decode(data, &rec); err != nil {
		return cluster.Launch{}, err
	}
	x := rec.Launch
	if string(x.ID)+jsonSuffix != filepath.Base(path) || !validName(string(x.ID)) || phaseRank(x.Phase) < 0 || x.Epoch > maxEpoch {
		return cluster.Launch{}, fmt.Errorf("it holds launch %q in phase %q with epoch %d", x.ID, x.Phase, x.Epoch)
	}
	return x, nil
}

func (l *Ledger) loadDeployments(root string, in *intent) error {
	names, err := l.o.FS.List(filepath.Join(root, deploymentsDir))
	if err != nil {
		return err
	}
	for _, name := range names {
		if !validName(name) {
			continue
		}
		d, err := l.readDeployment(root, name, in)
		if err != nil {
			return err
		}
		if d != nil {
			in.state.deployments[name] = d
		}
	}
	return nil
}

// readDeployment returns nil where a crash came between the first revision's file and the record that names it.
func (l *Ledger) readDeployment(root, name string, in *intent) (*deployment, error) {
	d := &deployment{specs: map[int]jobspecs.Deployment{}}
	path := statePath(root, name)
	data, err := l.o.FS.Read(path, maxRecord)
	if errors.Is(err, fs.ErrNotExist) && !l.gone(root) {
		return nil, nil
	}
	if err == nil {
		err = decode(data, &d.rec)
	}
	if err == nil {
		err = d.rec.check(name)
	}
	if err != nil {
		d.rec, d.damaged = deploymentRecord{Name: name}, fmt.Sprintf("%s: %v", path, err)
		return d, l.trouble(root, path, err, in)
	}
	for _, r := range d.rec.Revisions {
		path := revisionPath(root, name, r.Number)
		spec, err := l.readRevision(path, r.Hash)
		if err != nil {
			if err := l.trouble(root, path, err, in); err != nil {
				return nil, err
			}
			continue
		}
		d.specs[r.Number] = spec
	}
	if _, ok := d.specs[d.rec.Current]; !ok && !d.rec.Removed {
		d.damaged = revisionPath(root, name, d.rec.Current) + " cannot be read"
	}
	return d, nil
}

func (l *Ledger) readRevision(path, hash string) (jobspecs.Deployment, error) {
	data, err := l.o.FS.Read(path, maxRecord)
	if err != nil {
		return jobspecs.Deployment{}, err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != hash {
		return jobspecs.Deployment{}, fmt.Errorf("its SHA-256 is not the stored %s", hash)
	}
	return jobspecs.Parse(path, data)
}
