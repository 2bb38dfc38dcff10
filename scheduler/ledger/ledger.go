// Package ledger keeps what is wanted, so that it survives the controller: deployments with their revisions, launches
// with the runs that were admitted, the controller's term, and the latest events.
//
// It is a folder of small JSON and YAML files that people can read. A call that has returned without an error is on
// disk. One that has failed has changed nothing, unless it says ErrUnsure, or that the term is lost or cannot be
// checked: then it may have, and the same call again settles it. Memory always says what the files say.
//
// One controller writes: the holder of the newest term. Each term writes into a folder of its own, so that a controller
// that was paused, or whose file server was, can damage nothing when it comes back: its files are in a folder that
// nobody reads any more.
//
//	terms/7                                  who holds term 7; made by link(2), never changed
//	terms/7.beat                             a counter that its holder turns, or "released"
//	intent/7/counters.json                   what must never go back
//	intent/7/deployments/NAME/state.json     current revision, scale, stopped, ...
//	intent/7/deployments/NAME/revision-3.yaml
//	intent/7/launches/ID.json
//	quarantine/                              files that could not be read
//	events.jsonl, events.jsonl.1             best effort
//
// It decides nothing: reconcile, the server and the command line (when no controller runs) call it. It knows neither
// clusters nor what is seen of running replicas.
package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/statefile"
)

// What can be wrong. HeldError is the one with more to say.
var (
	ErrNoTerm      = errors.New("this process holds no term on the state folder")
	ErrTermLost    = errors.New("another controller has taken over the state folder")
	ErrNewerFormat = errors.New("written by a newer release of Penstock; use that release")
	ErrNotFound    = errors.New("not in the ledger")
	ErrExists      = errors.New("in the ledger already")
	ErrInvalid     = errors.New("cannot be in the ledger")
	ErrNotCurrent  = errors.New("not the current revision any more")
	ErrDamaged     = errors.New("its file is damaged")
	ErrOtherRun    = errors.New("another run of this launch is admitted")
	ErrLaunchOver  = errors.New("the launch is over")
	ErrUnsure      = statefile.ErrUnsure // visible, but it may not survive a crash; the same call again settles it
)

// Options of a Ledger. The zero value is for real use.
type Options struct {
	FS    statefile.FS     // default statefile.OS
	Now   func() time.Time // for the times in records; default time.Now
	Log   zerolog.Logger
	Lease time.Duration // a holder whose beat stands still for so long is dead; default 15s
	// Alive tells whether the process of a holder runs; known is false where it cannot be told. Default: /proc.
	Alive func(Holder) (alive, known bool)
	// KeepEnded and KeepEndedFor bound the ended launches that are remembered, per deployment. Default 100 and 24h.
	KeepEnded    int
	KeepEndedFor time.Duration
	// KeepRevisions bounds a deployment's old revisions that no launch runs. Default 10.
	KeepRevisions int
	// KeepEvents bounds the events in memory. Default 10000.
	KeepEvents int
	// EventFileBytes is when the file of events begins anew; one older file stays. Default 4 MiB.
	EventFileBytes int64
}

func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = statefile.OS{}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Alive == nil {
		o.Alive = alive
	}
	o.Lease = orDefault(o.Lease, 15*time.Second)
	o.KeepEnded = orDefault(o.KeepEnded, 100)
	o.KeepEndedFor = orDefault(o.KeepEndedFor, 24*time.Hour)
	o.KeepRevisions = orDefault(o.KeepRevisions, 10)
	o.KeepEvents = orDefault(o.KeepEvents, 10000)
	o.EventFileBytes = orDefault(o.EventFileBytes, 4<<20)
	return o
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// Ledger is a state folder. Reading never waits for the disk. All methods are safe for concurrent use.
type Ledger struct {
	dir string
	o   Options
	log zerolog.Logger

	// writing is held by whoever changes files, so that records are written one after the other.
	writing sync.Mutex
	unsure  map[string]bool // files that may not survive a crash
	beats   atomic.Uint64

	mu       sync.RWMutex // guards what follows; never held over a call to the disk
	term     uint64       // 0 = none
	termErr  error        // why the term is over
	state    *state
	problems []Problem

	events events
}

// state is the ledger's content. Values in it are replaced, never changed.
type state struct {
	deployments map[string]*deployment
	launches    map[cluster.LaunchID]*cluster.Launch
	epoch       uint64 // highest ever given
	savedEpoch  uint64 // as in counters.json
}

func newState() *state {
	return &state{deployments: map[string]*deployment{}, launches: map[cluster.LaunchID]*cluster.Launch{}}
}

// Problem is a file that could not be read.
type Problem struct {
	Path string
	Err  error
}

// Open checks the state folder (made where it is missing; owner and mode as statefile.SecureDir says) and reads it. It
// changes nothing: reading works beside a running controller, and writing needs Acquire. ErrNewerFormat: a newer
// release has written here.
func Open(dir string, o Options) (*Ledger, error) {
	o = o.withDefaults()
	if _, ok := o.FS.(statefile.OS); ok {
		if err := statefile.SecureDir(dir); err != nil {
			return nil, fmt.Errorf("open ledger: %w", err)
		}
	}
	l := &Ledger{dir: dir, o: o, log: o.Log, unsure: map[string]bool{}}
	l.events.keep = o.KeepEvents
	in, err := l.load()
	if err != nil {
		return nil, fmt.Errorf("open ledger %s: %w", dir, err)
	}
	l.state, l.problems = in.state, in.problems
	l.loadEvents()
	return l, nil
}

// Used tells whether a controller has ever held a term on a state folder. It makes nothing, unlike Open.
func Used(dir string) (bool, error) {
	names, err := statefile.OS{}.List(filepath.Join(dir, termsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for terms: %w", err)
	}
	return len(names) > 0, nil
}

// Problems lists the files that could not be read when the folder was opened or the term acquired.
func (l *Ledger) Problems() []Problem {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return append([]Problem(nil), l.problems...)
}
