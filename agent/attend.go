package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/penstock/penstock/jobspecs"
	spec "github.com/penstock/penstock/jobspecs/engine"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// attend sees one start of the engine through: loading, serving, and the end of its whole process tree, whoever asked for
// it.
func (r *run) attend(ctx context.Context, e *engineRun) verdict {
	var err error
	switch {
	case r.follower != nil:
		err = r.follow(ctx, e)
	default:
		if err = r.load(ctx, e); err == nil {
			err = r.watch(ctx, e)
		}
	}
	asked := errors.Is(err, errAsked)
	if asked {
		r.drain(ctx, e)
	} else {
		r.port.lose(failed)
	}
	e.serving.Store(false)
	v := verdict{err: err, startedAt: e.startedAt}
	r.finish(ctx, e, asked, &v)
	return r.blame(v)
}

// blame takes the lines of the rank that failed, where that was another one.
func (r *run) blame(v verdict) verdict {
	var other *rankError
	if errors.As(v.err, &other) {
		v.lines = other.Lines
	}
	return v
}

// unkillable is how long a killed process is waited for that hangs in the kernel.
const unkillable = time.Minute

// finish ends the process tree and notes how it ended.
func (r *run) finish(ctx context.Context, e *engineRun, asked bool, v *verdict) {
	if e.reader != nil {
		defer e.reader.Close()
	}
	defer r.engine.Store(nil)
	defer r.cards.owner(nil)
	if e.proc == nil {
		return
	}
	r.settleKV(ctx, e, asked)
	byItself := closed(e.ended())
	grace := min(r.traits.StopGrace, 5*time.Second) // of an engine that failed, or of a run that is to end now
	if asked && !closed(r.end.stopped) {
		grace = min(r.traits.StopGrace, max(time.Until(r.drainBy()), 0))
	}
	ctx, cancel := context.WithTimeout(ctx, grace+unkillable)
	defer cancel()
	r.endStep(ctx, e, grace)
	if err := e.proc.Stop(ctx, grace); err != nil {
		r.log.Error().Err(err).Msg("engine not ended")
	}
	exit, err := e.proc.Wait(ctx)
	if err != nil || asked {
		return
	}
	lines := e.tail.Lines()
	v.lines, v.exit = lines[max(0, len(lines)-lastLines):], exit.String()
	if byItself && !errors.Is(v.err, errMoved) {
		v.err = fmt.Errorf("the engine ended: %s", v.exit)
	}
}

// errEnded: the engine's process is gone.
var errEnded = errors.New("the engine ended")

// interrupted says why a wait was cut short: the run is to end, or the engine has ended.
func (r *run) interrupted(e *engineRun) error {
	switch {
	case r.end.asked():
		return errAsked
	case closed(e.ended()):
		return errEnded
	}
	return nil
}

// attention is a context that ends when the run is to end or the engine has ended. release waits for its goroutine.
func (r *run) attention(ctx context.Context, e *engineRun) (_ context.Context, release func()) {
	ctx, cancel := context.WithCancel(ctx)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		select {
		case <-ctx.Done():
		case <-r.end.drained:
		case <-r.end.stopped:
		case <-e.ended():
		}
		cancel()
	})
	return ctx, func() { cancel(); waiting.Wait() }
}

// load follows the engine until it has produced a token. nil means that it has.
func (r *run) load(ctx context.Context, e *engineRun) error {
	ctx, release := r.attention(ctx, e)
	defer release()
	model := r.adm.deployment.Model
	stall := r.adm.deployment.Serving.LoadingStall.Std()
	tracker := NewTracker(time.Now(), weightsSize(model.Path), stall)
	var lines lineProgress
	for look := time.Now(); ; {
		err := r.firstToken(ctx, e, stall)
		if err == nil {
			return nil
		}
		if err := errors.Join(r.interrupted(e), r.rankTrouble()); err != nil {
			return err
		}
		if now := time.Now(); !now.Before(look) {
			look = now.Add(r.opts.Interval)
			progress, stalled := r.observe(e, tracker, &lines, now)
			if stalled {
				return fmt.Errorf("loading made no progress for %s: %w", stall, err)
			}
			r.health(func(h *apiv1.Health) { h.Loading, h.Message = progress, notYet(err) })
		}
		if !sleep(ctx, lookEvery) {
			return r.interrupted(e)
		}
	}
}

// notYet says for people why the engine has not answered yet.
func notYet(err error) string {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return "the engine does not listen yet"
	}
	return err.Error()
}

// observe takes what the engine has read by now.
func (r *run) observe(e *engineRun, t *Tracker, lines *lineProgress, now time.Time) (*apiv1.Progress, bool) {
	read, moved := r.readSoFar(e, lines, t.total)
	if moved {
		t.Advance(now)
	}
	return t.Observe(now, read)
}

// firstToken asks a loading engine for its first token, and lets requests in when it comes.
func (r *run) firstToken(ctx context.Context, e *engineRun, limit time.Duration) error {
	live := r.opts.Limits.Liveness
	quick, cancel := context.WithTimeout(ctx, live.Deadline)
	defer cancel()
	if err := e.reader.Health(quick); err != nil {
		return err
	}
	name := r.adm.deployment.Model.ServedName
	names, err := e.reader.Models(quick)
	if err != nil {
		return err
	}
	if !slices.Contains(names, name) {
		return fmt.Errorf("the engine serves %q and not %q", names, name)
	}
	slow, cancel := context.WithTimeout(ctx, limit) // the first one may compile kernels
	defer cancel()
	if err := e.reader.Token(slow, name); err != nil {
		return err
	}
	if err := r.admitKV(ctx, e); err != nil {
		return err
	}
	e.startedAt = time.Now()
	e.serving.Store(true)
	e.slots = r.openSlots(quick, e)
	r.port.admit(e.reader, e.slots)
	r.outward.started()
	r.phase(apiv1.Phase_PHASE_STARTED, "")
	r.log.Info().Msg("engine started")
	return nil
}

// readSoFar is how many bytes of weights the engine has read, by what the kernel counts or by what the engine says, and
// whether its output speaks of new progress.
func (r *run) readSoFar(e *engineRun, lines *lineProgress, total uint64) (bytes uint64, moved bool) {
	used := e.usage()
	bytes = max(used.ReadBytes, used.ReadChars)
	moved = lines.read(r.kind.Kind(), e.tail.Lines())
	return max(bytes, uint64(lines.share*float64(total))), moved
}

// lineProgress is what an engine's output said last about its loading.
type lineProgress struct{ share float64 }

// read takes the last lines and tells whether they say something new.
func (l *lineProgress) read(kind jobspecs.EngineKind, lines []string) bool {
	for _, line := range slices.Backward(lines) {
		if share, ok := spec.Progress(kind, line); ok {
			moved := share != l.share
			l.share = share
			return moved
		}
	}
	return false
}

// rankTrouble is what is wrong with the other ranks. A rank that is told to end ends all of them in good order.
func (r *run) rankTrouble() error {
	switch limit := r.opts.Limits.LostRank; {
	case r.leader != nil:
		if leaving, ok := r.leader.leaving(); ok {
			r.end.drain(fmt.Sprintf("rank %d on %s is told to end", leaving.Rank, leaving.Node), leaving.Left)
		}
		return r.leader.trouble(time.Now(), limit)
	case r.follower != nil:
		return r.follower.trouble(time.Now(), limit)
	}
	return nil
}

// watch looks after an engine that serves, until it ends, hangs, or is to end.
func (r *run) watch(ctx context.Context, e *engineRun) error {
	ctx, release := r.attention(ctx, e)
	defer release()
	live := r.opts.Limits.Liveness
	p := newPulse(live, time.Now())
	due := time.Now().Add(live.Every)
	for sleep(ctx, min(live.Every, r.opts.Interval)) {
		if err := r.rankTrouble(); err != nil {
			return err
		}
		if time.Now().Before(due) {
			continue
		}
		p.flowed(time.Now(), float64(r.tokens.Load()+r.port.moved.Load()))
		r.examine(ctx, e, p, live)
		due = time.Now().Add(live.Every)
		if trouble, dead := p.dead(); dead && r.interrupted(e) == nil {
			return fmt.Errorf("the engine accepts and does not answer: %w", trouble)
		}
	}
	return r.interrupted(e)
}

// examine makes the checks that are due.
func (r *run) examine(ctx context.Context, e *engineRun, p *pulse, live Liveness) {
	quick, cancel := context.WithTimeout(ctx, live.Deadline)
	p.health(e.reader.Health(quick))
	cancel()
	if !p.wantsToken(time.Now()) {
		return
	}
	slow, cancel := context.WithTimeout(ctx, live.TokenDeadline)
	defer cancel()
	p.token(time.Now(), e.reader.Token(slow, r.adm.deployment.Model.ServedName))
}

// follow keeps an engine of another rank running for as long as rank 0's does.
func (r *run) follow(ctx context.Context, e *engineRun) error {
	ctx, release := r.attention(ctx, e)
	defer release()
	for sleep(ctx, r.opts.Interval) {
		if err := r.rankTrouble(); err != nil {
			return err
		}
		heard, _ := r.follower.last()
		if heard.Port != 0 && heard.Port != e.meeting.port {
			return errMoved
		}
		switch heard.Phase {
		case apiv1.Phase_PHASE_STOPPED:
			r.end.stop("rank 0 has ended", nil)
			return errAsked
		case apiv1.Phase_PHASE_STARTED, apiv1.Phase_PHASE_DRAINING:
			if e.startedAt.IsZero() {
				e.startedAt = time.Now()
				if err := r.admitKV(ctx, e); err != nil {
					return err
				}
			}
			r.phaseOnce(heard.Phase, heard.Message)
		}
	}
	return r.interrupted(e)
}

// phaseOnce moves the run on where it is not there yet.
func (r *run) phaseOnce(p apiv1.Phase, message string) {
	if now, _ := r.state.read(); now.GetHealth().GetPhase() != p {
		r.phase(p, message)
	}
}
