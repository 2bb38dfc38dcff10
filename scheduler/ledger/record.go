package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/statefile"
)

// launchRecord is the file of a launch.
type launchRecord struct {
	Format int            `json:"format"`
	Term   uint64         `json:"term"` // that wrote it
	Launch cluster.Launch `json:"launch"`
}

// deploymentRecord is the file of a deployment.
type deploymentRecord struct {
	Format    int                       `json:"format"`
	Term      uint64                    `json:"term"`
	Name      string                    `json:"name"`
	Revisions []revisionRecord          `json:"revisions"` // oldest first; the highest number is never given again
	Current   int                       `json:"current"`
	Scale     map[jobspecs.RoleKind]int `json:"scale,omitempty"`
	// Told is what a cluster that counts was told; see cluster.Told.
	Told           map[jobspecs.RoleKind]cluster.Told `json:"told,omitempty"`
	Stopped        bool                               `json:"stopped,omitempty"`
	Removed        bool                               `json:"removed,omitempty"` // kept until no launch of it is remembered
	RolledBackFrom int                                `json:"rolled_back_from,omitempty"`
	RollbackReason string                             `json:"rollback_reason,omitempty"`
	UpdatedAt      time.Time                          `json:"updated_at"`

	// Of the present lifetime: when it began, why it was ended, and the GPU time of its launches that are forgotten.
	Since      time.Time     `json:"since,omitzero"`
	StopReason string        `json:"stop_reason,omitempty"`
	GPUTime    time.Duration `json:"gpu_time,omitempty"`
}

// revive begins a new lifetime. After a stop it begins with the file's own counts.
func (r *deploymentRecord) revive(now time.Time) {
	if r.Stopped {
		r.Scale = nil
	}
	r.Stopped, r.Since, r.StopReason, r.GPUTime = false, now, "", 0
}

// check refuses what this package never writes.
func (r deploymentRecord) check(name string) error {
	if r.Name != name {
		return fmt.Errorf("it holds deployment %q", r.Name)
	}
	last, current := 0, false
	for _, rev := range r.Revisions {
		if rev.Number <= last {
			return fmt.Errorf("revision %d stands behind revision %d", rev.Number, last)
		}
		last, current = rev.Number, current || rev.Number == r.Current
	}
	if !current {
		return fmt.Errorf("its current revision %d is not listed", r.Current)
	}
	for role, n := range r.Scale {
		if n < 0 {
			return fmt.Errorf("role %s is scaled to %d", role, n)
		}
	}
	return nil
}

// revisionRecord describes one revision; its content is in a file of its own.
type revisionRecord struct {
	Number    int       `json:"number"`
	Hash      string    `json:"hash"` // jobspecs.Hash: the SHA-256 of the file
	Source    string    `json:"source,omitempty"`
	AppliedAt time.Time `json:"applied_at"`
	Failed    bool      `json:"failed,omitempty"` // rolled back from
}

// countersRecord holds what must not go back when launches are forgotten.
type countersRecord struct {
	Format int    `json:"format"`
	Term   uint64 `json:"term"`
	Epoch  uint64 `json:"epoch"`
}

// deployment is one deployment in memory. It is replaced, never changed.
type deployment struct {
	rec     deploymentRecord
	specs   map[int]jobspecs.Deployment // of the revisions that can be read
	damaged string                      // why its files cannot be used; empty = they can
}

func (d *deployment) clone() *deployment {
	c := *d
	c.rec.Revisions = slices.Clone(d.rec.Revisions)
	c.rec.Scale = cloneMap(d.rec.Scale)
	c.rec.Told = cloneMap(d.rec.Told)
	c.specs = cloneMap(d.specs)
	return &c
}

func cloneMap[K comparable, V any](m map[K]V) map[K]V {
	c := make(map[K]V, len(m)+1)
	for k, v := range m {
		c[k] = v
	}
	return c
}

// decode reads a record of a format that this release knows.
func decode(data []byte, rec any) error {
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return err
	}
	if head.Format > format {
		return fmt.Errorf("format %d: %w", head.Format, ErrNewerFormat)
	}
	if head.Format < 1 {
		return errors.New("it names no format")
	}
	return json.Unmarshal(data, rec)
}

// put makes a file of the current term durable and then sees that the term is still ours: nobody may be told of a write
// that a newer term has not seen. visible: the file is there, whatever the error.
func (l *Ledger) put(path string, data []byte) (visible bool, err error) {
	err = statefile.Write(l.o.FS, path, data)
	visible = err == nil || errors.Is(err, ErrUnsure)
	if errors.Is(err, ErrUnsure) {
		l.unsure[path] = true
	} else if visible {
		delete(l.unsure, path)
	}
	if terr := l.CheckTerm(); terr != nil {
		return visible, terr
	}
	return visible, err
}

func (l *Ledger) putJSON(path string, rec any) (visible bool, err error) {
	data, err := json.MarshalIndent(rec, "", " ")
	if err != nil {
		return false, err
	}
	return l.put(path, append(data, '\n'))
}

// settle makes sure that what memory says of a record is on disk for good, before somebody is told so without a write.
func (l *Ledger) settle(path string, rec any) error {
	if !l.unsure[path] {
		return l.CheckTerm()
	}
	_, err := l.putJSON(path, rec)
	return err
}
