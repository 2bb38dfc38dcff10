package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// errAsked: the run ends because it was asked to.
var errAsked = errors.New("asked to end")

// errMoved: rank 0 has started its engine anew, with another port for the engines to meet.
var errMoved = errors.New("the engines meet elsewhere")

// verdict is how one start of the engine ended.
type verdict struct {
	err       error // errAsked, or what went wrong
	exit      string
	lines     []string  // of the output of the rank that failed
	startedAt time.Time // of the first token; zero = there was none
}

// lookEvery is how often something is looked for that may come any moment.
const lookEvery = 100 * time.Millisecond

// lastLines is how many lines of output go into a report.
const lastLines = 20

// supervise starts the engine, and starts it again while that may help. It returns when the run is over: nil where it was
// asked to be.
func (r *run) supervise(ctx context.Context) error {
	back := restarts{limit: r.restartLimit()}
	taken := 0
	for n := 1; ; n++ {
		v := r.once(ctx, n)
		if errors.Is(v.err, errAsked) {
			return r.stopped()
		}
		if errors.Is(v.err, errMoved) {
			continue
		}
		r.noteFailure(v)
		if v.portTaken() && taken < 3 { // somebody was faster; nobody's fault
			taken++
			continue
		}
		wait, giveUp := back.failed(time.Now(), v.startedAt)
		if giveUp || r.end.asked() {
			return r.failed(v)
		}
		r.log.Warn().Err(v.err).Strs("last_lines", v.lines).Dur("wait", wait).Msg("engine failed; it is started again")
		r.phase(apiv1.Phase_PHASE_JOINING, fmt.Sprintf("%v; starts again in %s", v.err, wait), func(h *apiv1.Health) {
			h.RetryAt = timestamppb.New(time.Now().Add(wait))
		})
		if !r.end.sleep(ctx, wait) {
			return r.stopped()
		}
	}
}

// restartLimit is how often the engine is started again. The ranks of a gang end together: none is.
func (r *run) restartLimit() int {
	if n := r.adm.deployment.Serving.Restarts; n != nil && r.opts.Nodes == 1 {
		return *n
	}
	return 0
}

// portTaken tells whether the engine ended before its first token because a port was in use.
func (v verdict) portTaken() bool {
	if !v.startedAt.IsZero() {
		return false
	}
	for _, line := range v.lines {
		if strings.Contains(strings.ToLower(line), "address already in use") || strings.Contains(line, "EADDRINUSE") {
			return true
		}
	}
	return false
}

// once is one start of the engine, from the wait for its cards to its end.
func (r *run) once(ctx context.Context, n int) verdict {
	if err := r.awaitCards(ctx); err != nil {
		return verdict{err: err}
	}
	m, err := r.gatherRanks(ctx)
	if err != nil {
		return r.blame(verdict{err: err})
	}
	e, err := r.begin(n, m)
	if err != nil {
		return verdict{err: err}
	}
	r.agent.metrics.starts.Inc()
	r.port.lose(loading)
	r.engine.Store(e)
	r.cards.owner(e.proc)
	r.phase(apiv1.Phase_PHASE_LOADING, "the engine starts", func(h *apiv1.Health) { h.EngineStarts++ })
	defer r.serveDoor(ctx, e)()
	defer r.followBlocks(ctx, e)()
	return r.attend(ctx, e)
}

// awaitCards waits until nobody else is on our cards.
func (r *run) awaitCards(ctx context.Context) error {
	if r.adm.deployment.Serving.AllowForeignGPUProcesses {
		return nil
	}
	limit := time.Now().Add(r.opts.Limits.FreeGPUs)
	for said := ""; ; {
		err := r.cards.free()
		switch {
		case err == nil && r.cards.seen():
			return nil
		case err == nil:
		case time.Now().After(limit):
			return fmt.Errorf("after %s: %w; end them, or set serving.allowForeignGPUProcesses", r.opts.Limits.FreeGPUs, err)
		case err.Error() != said:
			said = err.Error()
			r.log.Warn().Err(err).Msg("waits for GPUs")
			r.phase(apiv1.Phase_PHASE_JOINING, "waits: "+said)
		}
		if !r.end.sleep(ctx, lookEvery) {
			return errAsked
		}
	}
}

// gatherRanks waits for the other ranks and says where their engines meet.
func (r *run) gatherRanks(ctx context.Context) (meeting, error) {
	switch {
	case r.leader != nil:
		return r.gatherAsLeader(ctx)
	case r.follower != nil:
		return r.gatherAsFollower(ctx)
	}
	return meeting{}, nil
}

func (r *run) gatherAsLeader(ctx context.Context) (meeting, error) {
	limit := time.Now().Add(r.opts.Limits.Barrier)
	for {
		missing := r.leader.missing()
		if err := r.leader.trouble(time.Now(), r.opts.Limits.LostRank); err != nil {
			return meeting{}, err
		}
		if len(missing) == 0 {
			port, err := freePort("")
			return meeting{host: r.opts.AdvertiseHost, port: port, secret: rand.Text()}, err
		}
		if time.Now().After(limit) {
			return meeting{}, fmt.Errorf("%w: ranks %v did not come within %s", errLostRank, missing, r.opts.Limits.Barrier)
		}
		r.phase(apiv1.Phase_PHASE_JOINING, fmt.Sprintf("waits for ranks %v", missing))
		if !r.end.sleep(ctx, r.opts.Interval) {
			return meeting{}, errAsked
		}
	}
}

func (r *run) gatherAsFollower(ctx context.Context) (meeting, error) {
	limit := time.Now().Add(r.opts.Limits.Barrier)
	r.phase(apiv1.Phase_PHASE_JOINING, "waits for rank 0")
	for {
		if err := r.follower.trouble(time.Now(), r.opts.Limits.LostRank); err != nil {
			return meeting{}, err
		}
		heard, ok := r.follower.last()
		switch {
		case ok && heard.Phase == apiv1.Phase_PHASE_STOPPED:
			return meeting{}, errAsked
		case ok && heard.Port > 0:
			host, _, err := net.SplitHostPort(r.follower.where())
			return meeting{host: host, port: heard.Port, secret: heard.Secret}, err
		case time.Now().After(limit):
			return meeting{}, fmt.Errorf("%w: rank 0 was not found within %s", errLostRank, r.opts.Limits.Barrier)
		}
		if !r.end.sleep(ctx, r.opts.Interval) {
			return meeting{}, errAsked
		}
	}
}

// noteFailure puts an end that nobody asked for into the report.
func (r *run) noteFailure(v verdict) {
	r.agent.metrics.failures.Inc()
	r.health(func(h *apiv1.Health) {
		h.Failures++
		h.LastLines, h.Exit = v.lines, v.exit
	})
}

// failed is the end of a run that restarts did not help.
func (r *run) failed(v verdict) error {
	r.port.lose(failed)
	r.phase(apiv1.Phase_PHASE_FAILED, v.err.Error())
	r.log.Error().Err(v.err).Strs("last_lines", v.lines).Msg("run failed")
	return fmt.Errorf("%w: %w", ErrFailed, v.err)
}

// stopped is the end of a run that was asked for.
func (r *run) stopped() error {
	r.port.lose(draining)
	reason, err := r.end.cause()
	r.phase(apiv1.Phase_PHASE_STOPPED, orElse(reason, "asked to end"))
	r.log.Info().Str("reason", reason).Msg("run ended")
	return err
}
