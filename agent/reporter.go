package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/rs/zerolog"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// silence is how long a controller may leave our messages without any answer before the stream is given up. It answers
// each of them, one a second.
const silence = 15 * time.Second

// reporter tells the controller of this agent's state: all of it first, then what changes, at least once an interval.
type reporter struct {
	home     *controller
	state    *state
	blocks   *heldBlocks
	interval time.Duration
	certs    func() *tls.Certificate
	obey     func(*apiv1.Command)                                      // called once per command; does not block
	meet     func(head string)                                         // called with rank 0's address
	peers    func(controller string, gateways []*apiv1.GatewayAddress) // called with where they are
	rejoin   func(context.Context) error
	refused  func(error) // called when the controller admits this run no more
	metrics  *metrics
	log      zerolog.Logger

	heard moment // the controller's last answer
	at    string // URL of the controller that is spoken to; for run alone

	mu       sync.Mutex
	done     map[string]bool // commands acted on
	sentAs   uint64          // the version of state that the message sentSeq made complete
	sentSeq  uint64
	ackedSeq uint64
}

// lastHeard is when the controller last answered; zero = never on a stream.
func (r *reporter) lastHeard() time.Time { return r.heard.last() }

// run reports until ctx ends or the controller refuses this run. Streams that end are opened again, wherever the
// controller is then.
func (r *reporter) run(ctx context.Context) {
	var box outbox
	pause := backoff{longest: 10 * time.Second}
	for {
		before := r.lastHeard()
		err := r.connect(ctx, &box)
		if ctx.Err() != nil {
			return
		}
		if r.lastHeard() != before {
			pause.wait = 0
		}
		if err = r.cure(ctx, err); err != nil {
			r.refused(err)
			return
		}
		if !sleep(ctx, pause.next()) {
			return
		}
	}
}

// connect tries the known controllers in turn, each until its stream ends.
func (r *reporter) connect(ctx context.Context, box *outbox) (err error) {
	urls := r.home.urls()
	if len(urls) == 0 {
		err = errors.New("no controller is known")
	}
	for _, url := range urls {
		before := r.lastHeard()
		err = r.stream(ctx, url, box)
		if ctx.Err() != nil || final(err) {
			return err
		}
		r.log.Info().Err(err).Str("controller", url).Msg("no report stream")
		if r.lastHeard() != before {
			return err // it was alive just now: look where it is
		}
	}
	return err
}

// cure does what can be done about an error; what it returns is beyond cure.
func (r *reporter) cure(ctx context.Context, err error) error {
	code := connect.CodeOf(err)
	switch {
	case code == connect.CodeFailedPrecondition:
		return err
	case code == connect.CodeUnauthenticated, code == connect.CodePermissionDenied, expired(r.certs(), time.Now()):
		if err := r.rejoin(ctx); final(err) || errors.Is(err, errFenced) {
			return err
		}
	}
	return nil
}

// stream opens one stream and keeps it up until it breaks.
func (r *reporter) stream(ctx context.Context, url string, box *outbox) error {
	client, hangUp := r.home.dial(url, r.certs)
	ctx, cancel := context.WithCancelCause(ctx)
	var receiving sync.WaitGroup
	defer receiving.Wait()
	defer hangUp()
	defer cancel(nil)
	defer context.AfterFunc(ctx, hangUp)()
	quiet := time.AfterFunc(silence, func() { cancel(fmt.Errorf("no answer for %s", silence)) })
	defer quiet.Stop()

	s, err := client.Report(ctx)
	if err != nil {
		return err
	}
	r.metrics.connects.Inc()
	r.at = url
	in := &inbox{answers: make(chan *apiv1.ReportResponse)}
	receiving.Go(func() { in.receive(ctx, s) })
	err = r.talk(ctx, s, in, box, quiet)
	if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
		return cause
	}
	return err
}

type reportStream = connect.BidiStreamForClientSimple[apiv1.ReportRequest, apiv1.ReportResponse]

// inbox is the receiving side of a stream.
type inbox struct {
	answers chan *apiv1.ReportResponse // closed at the end of the stream, after err is set
	err     error
}

func (i *inbox) receive(ctx context.Context, s *reportStream) {
	defer close(i.answers)
	for {
		m, err := s.Receive()
		if err != nil {
			i.err = err
			return
		}
		select {
		case i.answers <- m:
		case <-ctx.Done():
			i.err = ctx.Err()
			return
		}
	}
}

// talk sends what there is to say and takes answers, until the stream breaks.
func (r *reporter) talk(ctx context.Context, s *reportStream, in *inbox, box *outbox, quiet *time.Timer) error {
	tick, blocks := time.NewTicker(r.interval), time.NewTicker(blocksEvery)
	defer tick.Stop()
	defer blocks.Stop()
	err := r.sendFull(s, box, box.seq > 0)
	for err == nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case m, ok := <-in.answers:
			if !ok {
				return in.err
			}
			quiet.Reset(silence)
			r.heard.mark()
			err = r.take(s, box, m)
		case <-tick.C:
			err = r.sendDelta(s, box)
		case <-blocks.C:
			err = r.sendBlocks(s, box)
		case <-r.state.urgent:
			err = r.sendDelta(s, box)
		}
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	for range in.answers { // the stream broke: the reason comes from the receiving side
	}
	return in.err
}

// sendFull sends the whole state. What the engine's cache holds goes on from the last message where that one may still be known
// (follow): a controller that does not know it asks.
func (r *reporter) sendFull(s *reportStream, box *outbox, follow bool) error {
	now, version := r.state.read()
	m := box.full(time.Now(), now)
	if m.BlocksFollow = follow; follow {
		m.Blocks = r.blocks.next()
	} else {
		m.Blocks = r.blocks.all()
	}
	return r.send(s, m, "full", version)
}

func (r *reporter) sendDelta(s *reportStream, box *outbox) error {
	now, version := r.state.read()
	m := box.delta(time.Now(), now)
	m.Blocks = r.blocks.next()
	return r.send(s, m, "delta", version)
}

// blocksEvery is how often changes of the engine's cache are told, and blocksAtOnce how many messages of them in a row: half a
// million blocks a second.
const (
	blocksEvery  = 250 * time.Millisecond
	blocksAtOnce = 16
)

// sendBlocks tells what waits.
func (r *reporter) sendBlocks(s *reportStream, box *outbox) error {
	for range blocksAtOnce {
		if !r.blocks.any() {
			return nil
		}
		if err := r.sendDelta(s, box); err != nil {
			return err
		}
	}
	return nil
}

func (r *reporter) send(s *reportStream, m *apiv1.ReportRequest, kind string, version uint64) error {
	r.mu.Lock()
	r.sentAs, r.sentSeq = version, m.GetSeq()
	r.mu.Unlock()
	r.metrics.messages.WithLabelValues(kind).Inc()
	return s.Send(m)
}

// take acts on one answer.
func (r *reporter) take(s *reportStream, box *outbox, m *apiv1.ReportResponse) error {
	switch body := m.GetBody().(type) {
	case *apiv1.ReportResponse_Ack:
		if err := r.home.observe(body.Ack.GetTerm()); err != nil {
			return err
		}
		r.mu.Lock()
		r.ackedSeq = max(r.ackedSeq, body.Ack.GetSeq())
		r.mu.Unlock()
		r.meet(body.Ack.GetHeadAddress())
		r.peers(r.at, body.Ack.GetGateways())
	case *apiv1.ReportResponse_Resend:
		return r.resend(s, box, body.Resend)
	case *apiv1.ReportResponse_Command:
		r.command(body.Command)
	}
	return nil // an answer of a later release
}

func (r *reporter) resend(s *reportStream, box *outbox, want *apiv1.Resend) error {
	messages, ok := box.again(want.GetFrom(), want.GetTo())
	if !ok {
		return r.sendFull(s, box, false)
	}
	for _, m := range messages {
		r.metrics.messages.WithLabelValues("again").Inc()
		if err := s.Send(m); err != nil {
			return err
		}
	}
	return nil
}

// command acts once per id, and on no word of a controller whose term is over.
func (r *reporter) command(c *apiv1.Command) {
	if err := r.home.observe(c.GetTerm()); err != nil {
		r.log.Warn().Err(err).Msg("command refused")
		return
	}
	r.mu.Lock()
	known := r.done[c.GetId()]
	if r.done == nil {
		r.done = map[string]bool{}
	}
	r.done[c.GetId()] = true
	r.mu.Unlock()
	if !known {
		r.obey(c)
	}
}

// flush waits until the controller has acknowledged all that state holds now, or ctx ends.
func (r *reporter) flush(ctx context.Context) error {
	_, version := r.state.read()
	for {
		r.mu.Lock()
		told := r.sentAs >= version && r.ackedSeq >= r.sentSeq
		r.mu.Unlock()
		if told {
			return nil
		}
		if !sleep(ctx, 10*time.Millisecond) {
			return fmt.Errorf("the controller was not told of the end: %w", ctx.Err())
		}
	}
}
