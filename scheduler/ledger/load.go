package ledger

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/statefile"
)

// epochGap is left free after a launch record was lost: it may have had the highest epoch.
const epochGap = 1 << 20

// loadTries is how often a reader begins anew because a controller took over while it read.
const loadTries = 5

// load reads the newest intent. A file that cannot be read becomes a Problem and costs nothing but itself.
func (l *Ledger) load() (*state, []Problem, error) {
	var last error
	for range loadTries {
		term, err := l.newestIntent()
		if err != nil {
			return nil, nil, err
		}
		if term == 0 {
			return newState(), nil, nil
		}
		st, problems, err := l.loadFrom(l.intentPath(term))
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return st, problems, err
		}
		last = err
	}
	return nil, nil, last
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

func (l *Ledger) loadFrom(root string) (*state, []Problem, error) {
	st := newState()
	var problems []Problem
	var counters countersRecord
	data, err := l.o.FS.Read(filepath.Join(root, countersFile), maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err // every intent has one: the folder was removed under us
	}
	lost := false
	if err == nil {
		err = decode(data, &counters, &counters.Format)
	}
	if errors.Is(err, ErrNewerFormat) {
		return nil, nil, err
	}
	if err != nil {
		problems, lost = append(problems, Problem{Path: filepath.Join(root, countersFile), Err: err}), true
	}
	st.epoch, st.savedEpoch = counters.Epoch, counters.Epoch
	launchProblems, err := l.loadLaunches(root, st)
	if err != nil {
		return nil, nil, err
	}
	if lost || len(launchProblems) > 0 {
		st.epoch += epochGap
	}
	deploymentProblems, err := l.loadDeployments(root, st)
	return st, append(append(problems, launchProblems...), deploymentProblems...), err
}

func (l *Ledger) loadLaunches(root string, st *state) (problems []Problem, err error) {
	dir := filepath.Join(root, launchesDir)
	names, err := l.o.FS.List(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if statefile.IsTemp(name) {
			continue
		}
		path := filepath.Join(dir, name)
		launch, err := l.readLaunch(path)
		switch {
		case errors.Is(err, ErrNewerFormat), errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("%s: %w", path, err)
		case err != nil:
			problems = append(problems, Problem{Path: path, Err: err})
		default:
			st.launches[launch.ID] = launch
			st.epoch = max(st.epoch, launch.Epoch)
		}
	}
	return problems, nil
}

func (l *Ledger) readLaunch(path string) (cluster.Launch, error) {
	data, err := l.o.FS.Read(path, maxRecord)
	if err != nil {
		return cluster.Launch{}, err
	}
	var rec launchRecord
	if err := decode(data, &rec, &rec.Format); err != nil {
		return cluster.Launch{}, err
	}
	if string(rec.Launch.ID)+jsonSuffix != filepath.Base(path) || !validName(string(rec.Launch.ID)) {
		return cluster.Launch{}, fmt.Errorf("it holds launch %q", rec.Launch.ID)
	}
	return rec.Launch, nil
}

func (l *Ledger) loadDeployments(root string, st *state) (problems []Problem, err error) {
	names, err := l.o.FS.List(filepath.Join(root, deploymentsDir))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if !validName(name) {
			continue
		}
		d, ps, err := l.readDeployment(root, name)
		if err != nil {
			return nil, err
		}
		problems = append(problems, ps...)
		if d != nil {
			st.deployments[name] = d
		}
	}
	return problems, nil
}

// readDeployment returns nil where a crash came between the first revision's file and the record that names it.
func (l *Ledger) readDeployment(root, name string) (d *deployment, problems []Problem, err error) {
	d = &deployment{specs: map[int]jobspecs.Deployment{}}
	path := statePath(root, name)
	data, err := l.o.FS.Read(path, maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := l.o.FS.List(root); err != nil {
			return nil, nil, err // the whole intent was removed under us
		}
		return nil, nil, nil
	}
	if err == nil {
		err = decode(data, &d.rec, &d.rec.Format)
	}
	if err == nil && d.rec.Name != name {
		err = fmt.Errorf("it holds deployment %q", d.rec.Name)
	}
	if errors.Is(err, ErrNewerFormat) {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	if err != nil {
		d.rec, d.damaged = deploymentRecord{Name: name}, fmt.Sprintf("%s: %v", path, err)
		return d, []Problem{{Path: path, Err: err}}, nil
	}
	for _, r := range d.rec.Revisions {
		spec, err := l.readRevision(revisionPath(root, name, r.Number), r.Hash)
		if err != nil {
			problems = append(problems, Problem{Path: revisionPath(root, name, r.Number), Err: err})
			continue
		}
		d.specs[r.Number] = spec
	}
	if _, ok := d.specs[d.rec.Current]; !ok && !d.rec.Removed {
		d.damaged = revisionPath(root, name, d.rec.Current) + " cannot be read"
	}
	return d, problems, nil
}

func (l *Ledger) readRevision(path, hash string) (jobspecs.Deployment, error) {
	data, err := l.o.FS.Read(path, maxRecord)
	if err != nil {
		return jobspecs.Deployment{}, err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != strings.ToLower(hash) {
		return jobspecs.Deployment{}, fmt.Errorf("its SHA-256 is not the stored %s", hash)
	}
	return jobspecs.Parse(path, data)
}
