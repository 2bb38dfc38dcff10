package reconcile

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/fleet"
	"github.com/penstock/penstock/scheduler/ledger"
	"github.com/penstock/penstock/scheduler/plan"
)

// watch remembers what was told as events, so that each change is told once. It belongs to the deciding goroutine.
type watch struct {
	first    bool // nothing has been seen yet: what is there now is no news
	launches map[cluster.LaunchID]told
	waits    map[waitOf]waited
	ordered  map[cluster.LaunchID]time.Time // when agents were last told to drain
}

// told is what was last told of a launch.
type told struct {
	starts   uint32 // engine starts that led to a real token
	failures uint32 // engine ends
	ready    bool
	// inherited: it was ready before this controller began, which has told its earlier starts and failures.
	inherited bool
}

// waited is since when something is waited for, and whether that has been told.
type waited struct {
	since time.Time
	told  bool
}

// tellAfter is how long something must be waited for to be worth telling.
const tellAfter = 2 * time.Second

// waitOf is one wait, however its reason is worded now.
type waitOf struct {
	cluster    jobspecs.ClusterKind
	deployment string
	role       jobspecs.RoleKind
	launch     cluster.LaunchID
	cause      plan.Cause
	node       string
}

func newWatch() watch {
	return watch{first: true, launches: map[cluster.LaunchID]told{}, waits: map[waitOf]waited{}, ordered: map[cluster.LaunchID]time.Time{}}
}

// event writes down something about an action or its replica.
func (l *Loop) event(kind string, a plan.Action, message string) {
	l.o.Ledger.AppendEvent(&apiv1.Event{
		At: timestamppb.New(time.Now()), Kind: kind, Deployment: a.Deployment, Replica: a.Replica(), Launch: string(a.Launch), Message: message,
	})
	l.log.Info().Str("deployment", a.Deployment).Str("replica", a.Replica()).Str("launch", string(a.Launch)).
		Str("kind", kind).Str("why", message).Msg("replica event")
}

// observe tells what has changed in the fleet since the last time, and notes in the ledger which launches became ready.
func (l *Loop) observe(launches []cluster.Launch, s fleet.Snapshot, now time.Time) error {
	seen := make(map[cluster.LaunchID]told, len(l.watch.launches))
	var errs []error
	for i := range launches {
		x := &launches[i]
		if x.Phase == cluster.Ended {
			continue
		}
		r, known := s.Replicas[x.ID]
		was, before := l.watch.launches[x.ID]
		if !before && l.watch.first && !x.ReadyAt.IsZero() {
			was.ready, was.inherited = true, true
		}
		if !known || len(r.Ranks) == 0 {
			seen[x.ID] = was
			continue
		}
		if was.inherited {
			was.starts, was.failures, was.inherited = r.EngineStarts, r.Health().GetFailures(), false
		}
		seen[x.ID] = l.compare(x, r, was)
		if r.Ready && x.ReadyAt.IsZero() {
			l.tookOver(x, launches, now)
			errs = append(errs, l.o.Ledger.UpdateLaunch(x.ID, func(x *cluster.Launch) error {
				if x.ReadyAt.IsZero() {
					x.ReadyAt = now
				}
				return nil
			}))
		}
	}
	l.watch.launches, l.watch.first = seen, false
	maps.DeleteFunc(l.watch.ordered, func(id cluster.LaunchID, _ time.Time) bool { _, live := seen[id]; return !live })
	return errors.Join(errs...)
}

// compare tells what is new about one replica.
func (l *Loop) compare(x *cluster.Launch, r fleet.Replica, was told) told {
	about := plan.Action{Deployment: x.Deployment, Role: x.Role, Index: x.Index, Launch: x.ID}
	is, h := was, r.Health()
	if h.GetFailures() > was.failures {
		is.failures = h.GetFailures()
		again := ""
		if is.failures > 1 {
			again = fmt.Sprintf(" (failure %d of this run)", is.failures)
		}
		l.event("engine-ended", about, "the engine ended without being asked to"+again+": "+orUnknown(h.GetExit())+complaint(h.GetLastLines()))
	}
	if r.Phase == apiv1.Phase_PHASE_STARTED && r.EngineStarts != was.starts {
		is.starts = r.EngineStarts
		l.event("started", about, "its agent got a real answer from the engine")
	}
	switch serving := r.Serving(); {
	case serving && !was.ready:
		is.ready = true
		l.event("ready", about, "the controller got a real answer through its agent's port")
	case !serving && was.ready && (r.NotReady != "" || r.Phase != apiv1.Phase_PHASE_DRAINING && r.Phase != apiv1.Phase_PHASE_STARTED):
		is.ready = false
		l.event("not-ready", about, orUnknown(cmp.Or(r.NotReady, h.GetMessage())))
	}
	return is
}

func orUnknown(s string) string {
	if s == "" {
		return "nobody knows how or why"
	}
	return s
}

// silentCauses are waits that come and go all the time, or that an event of its own has told already.
var silentCauses = map[plan.Cause]bool{plan.Busy: true, plan.Draining: true, plan.Ending: true, plan.Joining: true, plan.Rollout: true}

// tellWaits tells of waits that are new and have lasted a little, and of clusters that answer again.
func (l *Loop) tellWaits(actions []plan.Action, now time.Time) {
	waits := map[waitOf]waited{}
	for _, a := range actions {
		if a.Verb != plan.Wait || silentCauses[a.Cause] || a.Cause == plan.LookUp && a.Count == 0 || a.Cause == plan.NoAnswer && l.unasked(a.Cluster) {
			continue
		}
		key := waitOf{a.Cluster, a.Deployment, a.Role, a.Launch, a.Cause, a.Node}
		w, before := l.watch.waits[key]
		if !before {
			w.since = now
		}
		if !w.told && now.Sub(w.since) >= tellAfter {
			w.told = true
			l.event("wait", a, a.Reason)
		}
		waits[key] = w
	}
	for key, w := range l.watch.waits {
		if _, still := waits[key]; key.cause == plan.NoAnswer && key.deployment == "" && w.told && !still {
			l.event("cluster", plan.Action{Index: -1}, fmt.Sprintf("cluster %s answers again", key.cluster))
		}
	}
	l.watch.waits = waits
}

// unasked: a cluster has not had the time to answer yet.
func (l *Loop) unasked(kind jobspecs.ClusterKind) bool {
	p := l.polls[kind]
	if p == nil {
		return false
	}
	select {
	case <-p.first:
		return false
	default:
		return true
	}
}

// settle works out whether the fleet is complete again after a start of the controller.
func (l *Loop) settle(launches []cluster.Launch, s fleet.Snapshot, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.settled {
		return
	}
	l.settled = now.Sub(l.since) >= l.o.SettleFor || !missesAny(launches, s)
}

// missesAny reports whether a replica that served before is not known to serve or not to.
func missesAny(launches []cluster.Launch, s fleet.Snapshot) bool {
	for i := range launches {
		x := &launches[i]
		if x.Phase == cluster.Ended || x.ReadyAt.IsZero() {
			continue
		}
		r := s.Replicas[x.ID]
		probed := r.Ready || r.NotReady != "" || r.Phase != apiv1.Phase_PHASE_STARTED
		if len(r.Ranks) < max(1, x.Nodes) || !probed {
			return true
		}
	}
	return false
}

var _ store = (*ledger.Ledger)(nil)
