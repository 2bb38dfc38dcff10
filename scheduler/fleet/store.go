package fleet

import (
	"maps"
	"sync"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
)

// Options describe a Fleet.
type Options struct {
	// Interval is how often agents report at least; default 1s. What is older than three of them is unknown.
	Interval time.Duration
}

// Fleet is the store of what agents report. Its methods may be called from several goroutines and never block for long.
type Fleet struct {
	staleAfter time.Duration

	mu       sync.Mutex
	replicas map[cluster.LaunchID]Replica
	shared   bool // a Snapshot holds replicas: the next write copies the map first
	conns    map[rankOf]int
	changed  chan struct{} // nil = nobody waits
}

// rankOf names one rank of one run.
type rankOf struct {
	launch cluster.LaunchID
	run    string
	rank   int
}

// New makes an empty Fleet.
func New(o Options) *Fleet {
	if o.Interval <= 0 {
		o.Interval = time.Second
	}
	return &Fleet{
		staleAfter: 3 * o.Interval,
		replicas:   map[cluster.LaunchID]Replica{},
		conns:      map[rankOf]int{},
	}
}

// Admit says which run of a launch may speak for it from now on, and how many ranks it has. A newer epoch pushes the
// older run out; the same run again, or an older epoch, changes nothing.
func (f *Fleet) Admit(launch cluster.LaunchID, run string, epoch uint64, nodes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if old, ok := f.replicas[launch]; ok && old.Epoch >= epoch {
		return
	}
	f.put(Replica{Launch: launch, Run: run, Epoch: epoch, Nodes: max(1, nodes)})
	f.notify()
}

// Remove forgets a launch: its agents' messages are stale from now on.
func (f *Fleet) Remove(launch cluster.LaunchID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.replicas[launch]; !ok {
		return
	}
	f.own()
	delete(f.replicas, launch)
	f.notify()
}

// Connected says that an agent's report stream is open. Streams are counted, since a new one may open before the old one
// is known to be dead: every call needs one of Disconnected.
func (f *Fleet) Connected(launch cluster.LaunchID, run string, rank int) {
	f.connect(rankOf{launch, run, rank}, 1)
}

// Disconnected says that a report stream has ended.
func (f *Fleet) Disconnected(launch cluster.LaunchID, run string, rank int) {
	f.connect(rankOf{launch, run, rank}, -1)
}

func (f *Fleet) connect(key rankOf, by int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conns[key] += by; f.conns[key] <= 0 {
		delete(f.conns, key)
	}
	connected := f.conns[key] > 0
	r := f.replicas[key.launch]
	rank, reported := r.Ranks[key.rank]
	if r.Run != key.run || !reported || rank.Connected == connected {
		return
	}
	rank.Connected = connected
	f.put(r.with(key.rank, rank))
	f.notify()
}

// SetReady records the controller's probe of a run that had seen so many engine starts: nil = it answered with a real
// token. A probe of another run, of an engine that has been started again since, or of one that does not run any more
// says nothing and is dropped.
func (f *Fleet) SetReady(launch cluster.LaunchID, run string, engineStarts uint32, now time.Time, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, ok := f.replicas[launch]
	if !ok || r.Run != run || r.EngineStarts != engineStarts {
		return
	}
	was := r
	r = unready(r)
	if err != nil {
		r.NotReady = err.Error()
	} else {
		r.Ready, r.ReadyAt = true, now
		if was.Ready {
			r.ReadyAt = was.ReadyAt
		}
	}
	r = summed(r, now)
	f.put(r)
	if was.Ready != r.Ready || was.NotReady != r.NotReady {
		f.notify()
	}
}

// Snapshot returns the state of the fleet as seen at now. It costs nothing; the first write after it copies the table.
func (f *Fleet) Snapshot(now time.Time) Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.shared = true
	return Snapshot{At: now, StaleAfter: f.staleAfter, Replicas: f.replicas}
}

// Replica returns what is seen of one launch; ok is false where no run of it is admitted. Unlike Snapshot it costs the next
// write nothing.
func (f *Fleet) Replica(launch cluster.LaunchID) (r Replica, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, ok = f.replicas[launch]
	return r, ok
}

// Changed returns a channel that is closed at the next change that matters to a decision: a run admitted, removed,
// connected or cut off, a phase, an engine start, readiness. Loads and mere signs of life don't count. Many changes close
// one channel: take the channel first, then the Snapshot, then wait.
func (f *Fleet) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.changed == nil {
		f.changed = make(chan struct{})
	}
	return f.changed
}

func (f *Fleet) notify() {
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}

// own makes the table this Fleet's alone again.
func (f *Fleet) own() {
	if f.shared {
		f.replicas, f.shared = maps.Clone(f.replicas), false
	}
}

func (f *Fleet) put(r Replica) {
	f.own()
	f.replicas[r.Launch] = r
}

// with returns the replica with one rank replaced; the old table of ranks stays as it is.
func (r Replica) with(i int, rank Rank) Replica {
	ranks := make(map[int]Rank, r.Nodes)
	maps.Copy(ranks, r.Ranks)
	ranks[i] = rank
	r.Ranks = ranks
	return r
}
