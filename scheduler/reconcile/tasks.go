package reconcile

import (
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

// tasks remembers what the loop has begun with clusters, so that nothing is begun twice. It lasts as long as the process;
// what must last longer is in the ledger.
type tasks struct {
	mu     sync.Mutex
	starts map[cluster.LaunchID]start
	over   map[cluster.LaunchID]time.Time // when a submit of this process was over
	told   map[jobOf]time.Time            // until when a job that was told to end has time to obey
	counts map[countOf]bool               // being told
	heard  map[countOf]time.Time          // when the last telling of a count was over
}

// start is a launch between the decision and the cluster's answer.
type start struct {
	launch cluster.Launch
	began  time.Time
}

// forgetAfter is when what was begun says nothing about the clusters' present answers any more.
const forgetAfter = 10 * time.Minute

type jobOf struct {
	kind jobspecs.ClusterKind
	id   string
}

type countOf struct {
	kind jobspecs.ClusterKind
	role cluster.RoleRef
}

func newTasks() tasks {
	return tasks{
		starts: map[cluster.LaunchID]start{}, over: map[cluster.LaunchID]time.Time{}, told: map[jobOf]time.Time{},
		counts: map[countOf]bool{}, heard: map[countOf]time.Time{},
	}
}

// underWay lists launches that are being started, what is being done about each, and when the submits that are over ended.
func (t *tasks) underWay(now time.Time) (starting []cluster.Launch, busy map[cluster.LaunchID]string, over map[cluster.LaunchID]time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.over, func(_ cluster.LaunchID, at time.Time) bool { return now.Sub(at) > forgetAfter })
	busy = make(map[cluster.LaunchID]string, len(t.starts))
	for id, s := range t.starts {
		starting = append(starting, s.launch)
		busy[id] = fmt.Sprintf("is being submitted to cluster %s, since %s", s.launch.Cluster, now.Sub(s.began).Round(time.Second))
	}
	return starting, busy, maps.Clone(t.over)
}

func (t *tasks) begin(l cluster.Launch, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.starts[l.ID] = start{l, now}
}

// submitted ends a start, after whatever is known of it is in the ledger.
func (t *tasks) submitted(id cluster.LaunchID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.starts, id)
	t.over[id] = time.Now()
}

// mayTell reports whether a job should be told to end now; it gives it until patience to obey.
func (t *tasks) mayTell(j jobOf, now, patience time.Time) (first, may bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.told, func(_ jobOf, until time.Time) bool { return !until.IsZero() && now.Sub(until) > forgetAfter })
	until, before := t.told[j]
	if before && now.Before(until) {
		return false, false
	}
	t.told[j] = patience
	return !before, true
}

// notTold takes back mayTell after a call that failed.
func (t *tasks) notTold(j jobOf) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.told[j] = time.Time{}
}

// retellCount is how long after a count that a cluster did not take it is told again.
const retellCount = 5 * time.Second

// mayCount reports whether a count should be told now: it is not being told already.
func (t *tasks) mayCount(c countOf) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts[c] {
		return false
	}
	t.counts[c] = true
	return true
}

// counted ends the telling of a count. What the cluster says that it holds means nothing for the role if it was asked before
// now; after a failure it is not told at once again.
func (t *tasks) counted(c countOf, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.counts, c)
	t.heard[c] = time.Now()
	if err != nil {
		t.heard[c] = time.Now().Add(retellCount)
	}
}

// telling lists the roles of which a cluster is being told, or was after it had been asked what it holds.
func (t *tasks) telling(kind jobspecs.ClusterKind, asked, now time.Time) map[cluster.RoleRef]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := map[cluster.RoleRef]bool{}
	for c := range t.counts {
		if c.kind == kind {
			list[c.role] = true
		}
	}
	for c, at := range t.heard {
		if c.kind == kind && (!asked.After(at) || at.After(now)) {
			list[c.role] = true
		}
	}
	maps.DeleteFunc(t.heard, func(_ countOf, at time.Time) bool { return now.Sub(at) > forgetAfter })
	return list
}
