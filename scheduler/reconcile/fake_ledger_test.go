package reconcile

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/ledger"
)

// memLedger is a ledger in memory that outlives the loops of a test.
type memLedger struct {
	mu          sync.Mutex
	deployments map[string]ledger.Deployment
	revisions   map[string]map[int]jobspecs.Deployment
	failedRevs  map[string]map[int]bool
	launches    map[cluster.LaunchID]cluster.Launch
	events      []*apiv1.Event
	epoch       uint64
	full        error // what writes answer
	term        error // what CheckTerm answers
}

func newMemLedger() *memLedger {
	return &memLedger{
		deployments: map[string]ledger.Deployment{}, revisions: map[string]map[int]jobspecs.Deployment{},
		failedRevs: map[string]map[int]bool{}, launches: map[cluster.LaunchID]cluster.Launch{},
	}
}

// apply makes a spec current.
func (m *memLedger) apply(spec jobspecs.Deployment) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.revisions[spec.Name] == nil {
		m.revisions[spec.Name], m.failedRevs[spec.Name] = map[int]jobspecs.Deployment{}, map[int]bool{}
	}
	n := len(m.revisions[spec.Name]) + 1
	m.revisions[spec.Name][n] = spec
	d := m.deployments[spec.Name]
	m.deployments[spec.Name] = ledger.Deployment{Name: spec.Name, Spec: spec, Revision: n, Previous: m.previous(spec.Name, n), Scale: d.Scale, Since: time.Now()}
}

func (m *memLedger) previous(name string, current int) int {
	for n := current - 1; n > 0; n-- {
		if !m.failedRevs[name][n] {
			return n
		}
	}
	return 0
}

func (m *memLedger) change(name string, change func(*ledger.Deployment)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.deployments[name]
	change(&d)
	m.deployments[name] = d
}

func (m *memLedger) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.full = err
}

func (m *memLedger) loseTerm() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.term = fmt.Errorf("term 1: %w (term 2)", ledger.ErrTermLost)
}

func (m *memLedger) Deployments() []ledger.Deployment {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Values(m.deployments), func(a, b ledger.Deployment) int { return cmp.Compare(a.Name, b.Name) })
}

func (m *memLedger) Revision(name string, n int) (jobspecs.Deployment, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d, ok := m.revisions[name][n]; ok {
		return d, nil
	}
	return jobspecs.Deployment{}, ledger.ErrNotFound
}

func (m *memLedger) Launches() []cluster.Launch {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Values(m.launches), func(a, b cluster.Launch) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
}

func (m *memLedger) PutLaunch(x cluster.Launch) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.full != nil {
		return m.full
	}
	if _, ok := m.launches[x.ID]; ok {
		return ledger.ErrExists
	}
	m.launches[x.ID] = x
	return nil
}

func (m *memLedger) UpdateLaunch(id cluster.LaunchID, change func(*cluster.Launch) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.full != nil {
		return m.full
	}
	x, ok := m.launches[id]
	if !ok {
		return ledger.ErrNotFound
	}
	old := x
	if err := change(&x); err != nil {
		return err
	}
	phases := []cluster.LaunchPhase{cluster.Intended, cluster.Submitted, cluster.Draining, cluster.Ended}
	if slices.Index(phases, x.Phase) < slices.Index(phases, old.Phase) || x.Run != old.Run {
		return ledger.ErrInvalid
	}
	m.launches[id] = x
	return nil
}

func (m *memLedger) Rollback(name string, bad, good int, _ string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.deployments[name]
	if d.Revision != bad {
		return ledger.ErrNotCurrent
	}
	m.failedRevs[name][bad] = true
	d.Spec, d.Revision, d.Previous, d.RolledBackFrom = m.revisions[name][good], good, m.previous(name, good), bad
	m.deployments[name] = d
	return nil
}

func (m *memLedger) Retire(name, reason string) error {
	m.change(name, func(d *ledger.Deployment) { d.Stopped, d.StopReason = true, reason })
	return nil
}

func (m *memLedger) NoteTold(name string, role jobspecs.RoleKind, t cluster.Told) error {
	m.change(name, func(d *ledger.Deployment) {
		told := maps.Clone(d.Told)
		if told == nil {
			told = map[jobspecs.RoleKind]cluster.Told{}
		}
		told[role] = t
		d.Told = told
	})
	return nil
}

func (m *memLedger) Follow(name string, role jobspecs.RoleKind, t cluster.Told) error {
	m.change(name, func(d *ledger.Deployment) { d.Scale = map[jobspecs.RoleKind]int{role: t.N} })
	return m.NoteTold(name, role, t)
}

func (m *memLedger) CheckTerm() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.term
}

func (m *memLedger) Term() uint64 { return 1 }

func (m *memLedger) AppendEvent(e *apiv1.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.events = append(m.events, e)
}

var errOver = errors.New("the launch is over, or another run is admitted")

// admit is the server's part of a join.
func (m *memLedger) admit(id cluster.LaunchID, run string, supersede bool, now time.Time) (cluster.Launch, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	x, ok := m.launches[id]
	switch {
	case !ok || x.Phase == cluster.Ended || x.Phase == cluster.Draining, x.Run != "" && x.Run != run && !supersede:
		return x, errOver
	case x.Run == run:
		return x, nil
	}
	m.epoch++
	x.Run, x.Epoch, x.AdmittedAt = run, m.epoch, now
	m.launches[id] = x
	return x, nil
}

// kinds lists the events of some kinds so far, as "kind replica".
func (m *memLedger) kinds(want ...string) (list []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.events {
		if len(want) == 0 || slices.Contains(want, e.Kind) {
			list = append(list, strings.TrimSpace(e.Kind+" "+e.Replica))
		}
	}
	return list
}

// said reports whether an event of the kind holds the text.
func (m *memLedger) said(kind, text string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.events, func(e *apiv1.Event) bool { return e.Kind == kind && strings.Contains(e.Message, text) })
}
