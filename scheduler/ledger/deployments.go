package ledger

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/statefile"
)

// Deployment is what is wanted of one deployment now. It is a value; its maps and slices are shared and read only.
type Deployment struct {
	Name     string
	Spec     jobspecs.Deployment // of the current revision
	Revision int
	Hash     string // jobspecs.Hash of Spec
	Source   string // where it came from, for messages
	// Previous is what a failing current revision is rolled back to: the newest one before it that has not failed; 0 =
	// none.
	Previous int
	// Scale overrides replicas of roles. Wanted takes it into account.
	Scale map[jobspecs.RoleKind]int
	// Told is what a cluster that keeps roles at a count was last told of each.
	Told    map[jobspecs.RoleKind]cluster.Told
	Stopped bool // wanted: nothing runs
	// RolledBackFrom is the revision that failed and was given up for this one; 0 = none. The next Apply clears it.
	RolledBackFrom int
	RollbackReason string
	AppliedAt      time.Time // of the current revision
	UpdatedAt      time.Time // of anything
	// Since is when its present lifetime began: when it was last applied or started. StopReason says why Retire stopped it;
	// empty = it did not. GPUTime is what launches that are forgotten have held of GPUs since then, at least.
	Since      time.Time
	StopReason string
	GPUTime    time.Duration
	// Damaged says that its files cannot be read: what is wanted is unknown, so nothing of it may be started or
	// stopped. Only Name is set then. Applying its file again repairs it.
	Damaged string
}

// Wanted is how many replicas of a role should run.
func (d Deployment) Wanted(role jobspecs.RoleKind) int {
	r, ok := d.Spec.Roles[role]
	if !ok || d.Stopped {
		return 0
	}
	if n, ok := d.Scale[role]; ok {
		return n
	}
	return r.Replicas
}

// Deployments returns what is wanted, by name.
func (l *Ledger) Deployments() []Deployment {
	l.mu.RLock()
	defer l.mu.RUnlock()
	list := make([]Deployment, 0, len(l.state.deployments))
	for _, d := range l.state.deployments {
		if !d.rec.Removed {
			list = append(list, d.value())
		}
	}
	slices.SortFunc(list, func(a, b Deployment) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Deployment returns one deployment, if there is one of that name.
func (l *Ledger) Deployment(name string) (Deployment, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	d, ok := l.state.deployments[name]
	if !ok || d.rec.Removed {
		return Deployment{}, false
	}
	return d.value(), true
}

// Revision returns the content of one revision, also of one that is not current. Launches of a deployment that was
// removed find theirs too.
func (l *Ledger) Revision(name string, n int) (jobspecs.Deployment, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	d, ok := l.state.deployments[name]
	if !ok {
		return jobspecs.Deployment{}, fmt.Errorf("deployment %s: %w", name, ErrNotFound)
	}
	spec, ok := d.specs[n]
	if ok {
		return spec, nil
	}
	if d.damaged != "" || d.revision(n) != nil {
		return jobspecs.Deployment{}, fmt.Errorf("revision %d of deployment %s: %w", n, name, ErrDamaged)
	}
	return jobspecs.Deployment{}, fmt.Errorf("revision %d of deployment %s: %w", n, name, ErrNotFound)
}

func (d *deployment) value() Deployment {
	if d.damaged != "" {
		return Deployment{Name: d.rec.Name, Damaged: d.damaged}
	}
	scale := d.rec.Scale
	if len(scale) == 0 {
		scale = nil
	}
	told := d.rec.Told
	if len(told) == 0 {
		told = nil
	}
	v := Deployment{
		Name: d.rec.Name, Spec: d.specs[d.rec.Current], Revision: d.rec.Current, Previous: d.previous(),
		Scale: scale, Told: told, Stopped: d.rec.Stopped,
		RolledBackFrom: d.rec.RolledBackFrom, RollbackReason: d.rec.RollbackReason, UpdatedAt: d.rec.UpdatedAt,
		Since: d.rec.Since, StopReason: d.rec.StopReason, GPUTime: d.rec.GPUTime,
	}
	if r := d.revision(d.rec.Current); r != nil {
		v.Hash, v.Source, v.AppliedAt = r.Hash, r.Source, r.AppliedAt
		if v.Since.IsZero() { // written by a release that knew no lifetimes
			v.Since = r.AppliedAt
		}
	}
	return v
}

func (d *deployment) revision(n int) *revisionRecord {
	for i := range d.rec.Revisions {
		if d.rec.Revisions[i].Number == n {
			return &d.rec.Revisions[i]
		}
	}
	return nil
}

func (d *deployment) previous() int {
	n := 0
	for _, r := range d.rec.Revisions {
		if _, readable := d.specs[r.Number]; readable && r.Number < d.rec.Current && !r.Failed {
			n = max(n, r.Number)
		}
	}
	return n
}

// change runs a change on a copy of a deployment, writes it, and then takes it into memory. Without a change in content
// nothing is written.
func (l *Ledger) change(name string, change func(*deployment) error) error {
	term, err := l.held()
	if err != nil {
		return err
	}
	path := statePath(l.intentPath(term), name)
	old := l.deployment(name)
	if old != nil && old.rec.Removed && l.unsure[path] {
		return l.settle(path, old.rec)
	}
	if old == nil || old.rec.Removed {
		return ErrNotFound
	}
	if old.damaged != "" {
		return fmt.Errorf("%w: %s; apply its file again", ErrDamaged, old.damaged)
	}
	d := old.clone()
	err = change(d)
	if errors.Is(err, errNoChange) {
		return l.settle(path, old.rec)
	}
	if err != nil {
		return err
	}
	return l.putDeployment(term, d)
}

// errNoChange ends a change that has nothing to write.
var errNoChange = errors.New("no change")

func (l *Ledger) putDeployment(term uint64, d *deployment) error {
	d.rec.Format, d.rec.Term, d.rec.UpdatedAt = format, term, l.o.Now()
	visible, err := l.putJSON(statePath(l.intentPath(term), d.rec.Name), d.rec)
	if visible {
		l.mu.Lock()
		l.state.deployments[d.rec.Name] = d
		l.mu.Unlock()
	}
	return err
}

// putRevision writes the content of a new revision. The record that names it comes after.
func (l *Ledger) putRevision(term uint64, name string, n int, content []byte) error {
	path := revisionPath(l.intentPath(term), name, n)
	if l.deployment(name) == nil {
		if err := statefile.MakeDir(l.o.FS, filepath.Dir(path)); err != nil {
			return errors.Join(err, l.CheckTerm())
		}
	}
	_, err := l.put(path, content)
	return err
}
