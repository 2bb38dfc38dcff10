package ledger

import (
	"fmt"
	"path/filepath"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// Apply makes the content current: as a new revision, or, where it is current already, as it is. A deployment that was
// stopped is wanted again. changed is false when nothing is different from before. source is for messages.
//
// A scale override of a role survives as long as the file's own count for that role stays the same: who edits the count
// means it, who edits something else does not. It does not survive a stop: who starts a file anew means the file.
func (l *Ledger) Apply(d jobspecs.Deployment, source string) (rev int, changed bool, err error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	term, err := l.held()
	if err == nil && !validName(d.Name) {
		err = fmt.Errorf("%w: names are 1 to 40 of [a-z0-9-]", ErrInvalid)
	}
	if err == nil {
		rev, changed, err = l.apply(term, d, source)
	}
	if err != nil {
		return 0, false, fmt.Errorf("apply deployment %s: %w", d.Name, err)
	}
	return rev, changed, nil
}

func (l *Ledger) apply(term uint64, spec jobspecs.Deployment, source string) (int, bool, error) {
	hash := jobspecs.Hash(spec)
	old := l.deployment(spec.Name)
	usable := old != nil && old.damaged == "" && !old.rec.Removed
	if usable && old.value().Hash == hash {
		return l.applyAgain(term, old)
	}
	next, err := l.nextRevision(term, spec.Name, old)
	if err != nil {
		return 0, false, err
	}
	if err := l.putRevision(term, spec.Name, next, jobspecs.Encode(spec)); err != nil {
		return 0, false, err
	}
	d := &deployment{rec: deploymentRecord{Name: spec.Name}, specs: map[int]jobspecs.Deployment{}}
	if old != nil {
		d = old.clone()
		d.rec.Name = spec.Name
	}
	if usable {
		d.rec.Scale = keptScale(d.rec.Scale, d.specs[d.rec.Current], spec)
	} else {
		d.rec.Scale = nil
	}
	d.damaged = ""
	d.rec.revive(l.o.Now())
	d.rec.Removed, d.rec.RolledBackFrom, d.rec.RollbackReason = false, 0, ""
	d.rec.Revisions = append(d.rec.Revisions, revisionRecord{Number: next, Hash: hash, Source: source, AppliedAt: l.o.Now()})
	d.rec.Current = next
	d.specs[next] = spec
	dropped := l.dropRevisions(d)
	if err := l.putDeployment(term, d); err != nil {
		return 0, false, err
	}
	for _, n := range dropped {
		_ = l.o.FS.Remove(revisionPath(l.intentPath(term), spec.Name, n)) // best effort: nothing names it any more
	}
	return next, true, nil
}

// applyAgain is Apply of what is current.
func (l *Ledger) applyAgain(term uint64, old *deployment) (int, bool, error) {
	if mortal := old.value().Spec.Lifetime != (jobspecs.Lifetime{}); !old.rec.Stopped && old.rec.RolledBackFrom == 0 && !mortal {
		return old.rec.Current, false, l.settle(statePath(l.intentPath(term), old.rec.Name), old.rec)
	}
	d := old.clone()
	started := d.rec.Stopped
	d.rec.revive(l.o.Now())
	d.rec.RolledBackFrom, d.rec.RollbackReason = 0, ""
	return d.rec.Current, started, l.putDeployment(term, d)
}

func (l *Ledger) deployment(name string) *deployment {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.state.deployments[name]
}

// nextRevision is a number that was never given: by the record, by files of a record that is damaged, or to a launch.
func (l *Ledger) nextRevision(term uint64, name string, old *deployment) (int, error) {
	last := 0
	if old != nil {
		for _, r := range old.rec.Revisions {
			last = max(last, r.Number)
		}
	}
	if old != nil && old.damaged != "" {
		files, err := l.list(filepath.Dir(statePath(l.intentPath(term), name)))
		if err != nil {
			return 0, err
		}
		for _, f := range files {
			if n, ok := revisionNumber(f); ok {
				last = max(last, n)
			}
		}
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, x := range l.state.launches {
		if x.Deployment == name {
			last = max(last, x.Revision)
		}
	}
	return last + 1, nil
}

func keptScale(scale map[jobspecs.RoleKind]int, old, spec jobspecs.Deployment) map[jobspecs.RoleKind]int {
	kept := map[jobspecs.RoleKind]int{}
	for role, n := range scale {
		was, is := old.Roles[role], spec.Roles[role]
		if _, ok := spec.Roles[role]; ok && was.Replicas == is.Replicas && inBounds(is, n) == nil {
			kept[role] = n
		}
	}
	return kept
}

// dropRevisions takes the oldest revisions out of the record, but for those that are current, could be rolled back to,
// or run.
func (l *Ledger) dropRevisions(d *deployment) (dropped []int) {
	needed := map[int]bool{d.rec.Current: true, d.previous(): true}
	for _, x := range l.Launches() {
		if x.Deployment == d.rec.Name && x.Phase != cluster.Ended {
			needed[x.Revision] = true
		}
	}
	excess := len(d.rec.Revisions) - l.o.KeepRevisions
	kept := d.rec.Revisions[:0]
	for _, r := range d.rec.Revisions {
		if excess > 0 && !needed[r.Number] {
			dropped = append(dropped, r.Number)
			delete(d.specs, r.Number)
			excess--
			continue
		}
		kept = append(kept, r)
	}
	d.rec.Revisions = kept
	return dropped
}

// Rollback gives the revision bad up for good: bad is marked as failed and good becomes current. ErrNotCurrent: bad is
// not current any more, because somebody has applied another revision meanwhile.
func (l *Ledger) Rollback(name string, bad, good int, reason string) error {
	return l.edit("roll back", name, func(d *deployment) error {
		if d.rec.Current == good && d.rec.RolledBackFrom == bad {
			return errNoChange
		}
		if d.rec.Current != bad {
			return fmt.Errorf("revision %d: %w: revision %d is", bad, ErrNotCurrent, d.rec.Current)
		}
		if _, ok := d.specs[good]; !ok || good == bad {
			return fmt.Errorf("revision %d: %w", good, ErrNotFound)
		}
		d.revision(bad).Failed = true
		d.rec.Current, d.rec.RolledBackFrom, d.rec.RollbackReason = good, bad, reason
		d.rec.Scale = keptScale(d.rec.Scale, d.specs[bad], d.specs[good])
		return nil
	})
}

// SetScale overrides how many replicas of a role should run, within the role's min and max. The file's own number takes
// the override away. A deployment that is stopped stays so.
func (l *Ledger) SetScale(name string, role jobspecs.RoleKind, n int) error {
	return l.edit("scale", name, func(d *deployment) error {
		r, ok := d.specs[d.rec.Current].Roles[role]
		if !ok {
			return fmt.Errorf("%w: it has no role %s", ErrInvalid, role)
		}
		if err := inBounds(r, n); err != nil {
			return fmt.Errorf("%w: role %s: %w", ErrInvalid, role, err)
		}
		if was, ok := d.rec.Scale[role]; ok && was == n || !ok && n == r.Replicas {
			return errNoChange
		}
		d.rec.Scale[role] = n
		if n == r.Replicas {
			delete(d.rec.Scale, role)
		}
		return nil
	})
}

func inBounds(r jobspecs.Role, n int) error {
	if n < r.Min {
		return fmt.Errorf("%d replicas are less than its min %d", n, r.Min)
	}
	if r.Max > 0 && n > r.Max {
		return fmt.Errorf("%d replicas are more than its max %d", n, r.Max)
	}
	return nil
}

// SetStopped says whether anything of a deployment should run.
func (l *Ledger) SetStopped(name string, stopped bool) error {
	return l.edit("stop", name, func(d *deployment) error {
		switch {
		case d.rec.Stopped == stopped:
			return errNoChange
		case !stopped:
			d.rec.revive(l.o.Now())
		default:
			d.rec.Stopped, d.rec.StopReason = true, ""
		}
		return nil
	})
}

// Retire stops a deployment whose lifetime is over. The reason is kept until it is started again.
func (l *Ledger) Retire(name, reason string) error {
	return l.edit("retire", name, func(d *deployment) error {
		if d.rec.Stopped {
			return errNoChange
		}
		d.rec.Stopped, d.rec.StopReason = true, reason
		return nil
	})
}

// Remove forgets a deployment. Its revisions can still be read until no launch of it is remembered, and their numbers
// are not given again until then.
func (l *Ledger) Remove(name string) error {
	return l.edit("remove", name, func(d *deployment) error {
		d.rec.Removed = true
		return nil
	})
}

func (l *Ledger) edit(verb, name string, change func(*deployment) error) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.change(name, change); err != nil {
		return fmt.Errorf("%s deployment %s: %w", verb, name, err)
	}
	return nil
}
