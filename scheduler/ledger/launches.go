package ledger

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/penstock/penstock/scheduler/cluster"
)

// PutLaunch stores a new launch. It is on disk when PutLaunch returns, so the caller may submit it. An empty phase
// becomes Intended and a zero CreatedAt now. ErrExists: a launch with that token is there.
func (l *Ledger) PutLaunch(x cluster.Launch) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if !validName(string(x.ID)) || !validName(x.Deployment) {
		return fmt.Errorf("launch %q of deployment %q: %w: names are 1 to 40 of [a-z0-9-]", x.ID, x.Deployment, ErrInvalid)
	}
	if x.Phase == "" {
		x.Phase = cluster.Intended
	}
	if x.CreatedAt.IsZero() {
		x.CreatedAt = l.o.Now()
	}
	if phaseRank(x.Phase) < 0 || x.Run != "" || x.Epoch != 0 {
		return fmt.Errorf("launch %s: %w: phase %q, run %q, epoch %d", x.ID, ErrInvalid, x.Phase, x.Run, x.Epoch)
	}
	term, err := l.held()
	if err != nil {
		return fmt.Errorf("launch %s: %w", x.ID, err)
	}
	if _, ok := l.Launch(x.ID); ok && !l.unsure[launchPath(l.intentPath(term), x.ID)] {
		return fmt.Errorf("launch %s: %w", x.ID, ErrExists)
	}
	return l.putLaunch(cloneLaunch(x))
}

// UpdateLaunch changes a launch: change gets a copy of its own and may refuse with an error. What identifies a launch
// and its admission cannot be changed so, and its phase only moves forward (ErrInvalid). An end without a time ends
// now. No change means no write.
func (l *Ledger) UpdateLaunch(id cluster.LaunchID, change func(*cluster.Launch) error) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if _, err := l.held(); err != nil {
		return fmt.Errorf("launch %s: %w", id, err)
	}
	old, ok := l.Launch(id)
	if !ok {
		return fmt.Errorf("launch %s: %w", id, ErrNotFound)
	}
	x := cloneLaunch(old)
	if err := change(&x); err != nil {
		return err
	}
	if err := checkUpdate(old, x); err != nil {
		return fmt.Errorf("launch %s: %w: %w", id, ErrInvalid, err)
	}
	if x.Phase == cluster.Ended && x.EndedAt.IsZero() {
		x.EndedAt = l.o.Now()
	}
	if reflect.DeepEqual(old, x) {
		return l.settleLaunch(old)
	}
	if err := l.putLaunch(x); err != nil {
		return err
	}
	if x.Phase != cluster.Ended || old.Phase == cluster.Ended {
		return nil
	}
	if err := l.prune(); err != nil {
		l.log.Warn().Err(err).Msg("ended launches not forgotten yet")
	}
	return nil
}

func checkUpdate(old, x cluster.Launch) error {
	switch {
	case x.ID != old.ID || x.Deployment != old.Deployment || x.Role != old.Role || x.Index != old.Index ||
		x.Revision != old.Revision || x.Cluster != old.Cluster || !x.CreatedAt.Equal(old.CreatedAt):
		return errors.New("what identifies a launch cannot change")
	case x.Run != old.Run || x.Epoch != old.Epoch:
		return errors.New("only Admit changes the admitted run")
	case phaseRank(x.Phase) < phaseRank(old.Phase):
		return fmt.Errorf("phase %s cannot follow %s", x.Phase, old.Phase)
	}
	return nil
}

// phaseRank orders phases; -1 = no phase.
func phaseRank(p cluster.LaunchPhase) int {
	return slices.Index([]cluster.LaunchPhase{cluster.Intended, cluster.Submitted, cluster.Draining, cluster.Ended}, p)
}

// Launches returns all launches that live and those that ended a short while ago, oldest first. Slices in them are
// shared and read only.
func (l *Ledger) Launches() []cluster.Launch {
	l.mu.RLock()
	sorted := slices.Collect(maps.Values(l.state.launches))
	l.mu.RUnlock()
	slices.SortFunc(sorted, func(a, b *cluster.Launch) int { // pointers: a Launch is long
		if c := a.CreatedAt.Compare(b.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(string(a.ID), string(b.ID))
	})
	list := make([]cluster.Launch, len(sorted))
	for i, x := range sorted {
		list[i] = *x
	}
	return list
}

// Launch returns one launch, if it is remembered.
func (l *Ledger) Launch(id cluster.LaunchID) (cluster.Launch, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if x := l.state.launches[id]; x != nil {
		return *x, true
	}
	return cluster.Launch{}, false
}

// putLaunch writes a launch and then takes it into memory.
func (l *Ledger) putLaunch(x cluster.Launch) error {
	term, err := l.held()
	if err != nil {
		return fmt.Errorf("launch %s: %w", x.ID, err)
	}
	visible, err := l.putJSON(launchPath(l.intentPath(term), x.ID), launchRecord{Format: format, Term: term, Launch: x})
	if visible {
		l.mu.Lock()
		l.state.launches[x.ID] = &x
		l.state.epoch = max(l.state.epoch, x.Epoch)
		l.mu.Unlock()
	}
	if err != nil {
		return fmt.Errorf("store launch %s: %w", x.ID, err)
	}
	return nil
}

func (l *Ledger) settleLaunch(x cluster.Launch) error {
	term, err := l.held()
	if err == nil {
		err = l.settle(launchPath(l.intentPath(term), x.ID), launchRecord{Format: format, Term: term, Launch: x})
	}
	if err != nil {
		return fmt.Errorf("store launch %s: %w", x.ID, err)
	}
	return nil
}

func cloneLaunch(x cluster.Launch) cluster.Launch {
	x.Placement = slices.Clone(x.Placement)
	for i := range x.Placement {
		x.Placement[i].GPUs = slices.Clone(x.Placement[i].GPUs)
	}
	x.LastLines, x.Exclude, x.Ran, x.Blamed = slices.Clone(x.LastLines), slices.Clone(x.Exclude), slices.Clone(x.Ran), slices.Clone(x.Blamed)
	return x
}
