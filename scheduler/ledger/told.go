package ledger

import (
	"fmt"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// NoteTold remembers what a cluster that counts is told, or was told, of a role. Of a deployment that is gone nothing is
// remembered.
func (l *Ledger) NoteTold(name string, role jobspecs.RoleKind, t cluster.Told) error {
	return l.edit("note what a cluster was told of", name, func(d *deployment) error {
		if was, ok := d.rec.Told[role]; ok && was == t {
			return errNoChange
		}
		d.rec.Told[role] = t
		return nil
	})
}

// Follow makes a count that somebody has set at the cluster itself the one that is wanted, also where it is beyond the
// role's bounds: the cluster has taken it. ErrInvalid: the role is none of the deployment's.
func (l *Ledger) Follow(name string, role jobspecs.RoleKind, t cluster.Told) error {
	return l.edit("follow a change of", name, func(d *deployment) error {
		r, ok := d.specs[d.rec.Current].Roles[role]
		if !ok {
			return fmt.Errorf("%w: it has no role %s", ErrInvalid, role)
		}
		d.rec.Told[role] = t
		d.rec.Scale[role] = t.N
		if t.N == r.Replicas {
			delete(d.rec.Scale, role)
		}
		return nil
	})
}
