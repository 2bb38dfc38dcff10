package sim

import (
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
)

// ranks is this rank's tie to the others of its engine. One rank's end is the end of all.
type ranks struct {
	s      *Server
	joined chan *member  // rank 0: a rank that was let in
	mine   chan string   // the fingerprint of this rank's weights, once they are loaded
	all    chan struct{} // closed when every rank has loaded the same weights
}

// member is another rank as rank 0 sees it.
type member struct {
	rank int
	conn *rankConn
	out  chan rankMessage // what to tell it; the tie ends after Bye or Lost
}

// joinRanks ties this rank to the others. For an engine of one rank it is nil, and there is nothing to wait for.
func (s *Server) joinRanks(ctx context.Context, group *errgroup.Group) (*ranks, error) {
	if s.opts.Nodes == 1 {
		return nil, nil
	}
	r := &ranks{s: s, joined: make(chan *member), mine: make(chan string, 1), all: make(chan struct{})}
	if s.opts.NodeRank > 0 {
		group.Go(func() error { return endOf(ctx, r.follow(ctx)) })
		return r, nil
	}
	address := s.opts.masterAddress()
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for ranks on %s: %w", address, err)
	}
	group.Go(func() error { return endOf(ctx, r.lead(ctx, l)) })
	return r, nil
}

// ready tells the others that this rank's weights are loaded, and waits until all ranks have loaded theirs.
func (r *ranks) ready(ctx context.Context, f Fingerprint) error {
	if r == nil {
		return nil
	}
	r.mine <- f.String()
	select {
	case <-r.all:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lostRank is the end of this rank because of another.
func lostRank(rank, nodes int, why error) *ExitError {
	return &ExitError{1, fmt.Sprintf("rank %d of %d is lost: %v; all ranks end", rank, nodes, why)}
}

// said is what rank 0 heard of a member.
type said struct {
	from *member
	rankMessage
	err error // it is lost
}

// lead is rank 0: it lets the others in, waits until all have loaded, and ends them all if one is lost.
func (r *ranks) lead(ctx context.Context, l net.Listener) error {
	opts := r.s.opts
	heard := make(chan said)
	group, inner := errgroup.WithContext(ctx)
	group.Go(func() error { return r.admit(inner, l, group) })
	members := map[int]*member{}
	var end rankMessage
	group.Go(func() error {
		var err error
		end, err = r.gather(inner, group, heard, members, opts.Nodes)
		for _, m := range members {
			m.out <- end
		}
		return err
	})
	return group.Wait()
}

// gather keeps track of the members until the engine ends; it returns what to tell them last.
func (r *ranks) gather(ctx context.Context, group *errgroup.Group, heard chan said, members map[int]*member, nodes int) (rankMessage, error) {
	fingerprints := map[int]string{}
	late := time.NewTimer(rankJoin)
	defer late.Stop()
	mine, left := r.mine, late.C
	loaded := func(rank int, f string) error {
		if fingerprints[rank] != "" {
			return nil
		}
		fingerprints[rank] = f
		return r.compare(fingerprints, nodes)
	}
	for {
		var err error
		select {
		case <-ctx.Done():
			return farewell(ctx, nodes), ctx.Err()
		case m := <-r.joined:
			if members[m.rank] != nil {
				m.out <- rankMessage{Refused: fmt.Sprintf("rank %d is here already", m.rank)}
				continue
			}
			members[m.rank] = m
			group.Go(func() error { return r.hear(ctx, m, heard) })
			if len(members) == nodes-1 {
				left = nil
			}
		case f := <-mine:
			mine = nil
			err = loaded(0, f)
		case s := <-heard:
			switch {
			case s.err != nil:
				err = lostRank(s.from.rank, nodes, s.err)
				delete(members, s.from.rank)
			case s.Loaded:
				err = loaded(s.from.rank, s.Fingerprint)
			}
		case <-left:
			err = &ExitError{1, fmt.Sprintf("only %d of %d ranks came within %s; all ranks end", len(members)+1, nodes, rankJoin)}
		}
		if err != nil {
			return rankMessage{Lost: err.Error()}, err
		}
	}
}

// farewell is the last message to the others when rank 0 ends: whether it ends as it should.
func farewell(ctx context.Context, nodes int) rankMessage {
	if why := context.Cause(ctx); !errors.Is(why, context.Canceled) {
		return rankMessage{Lost: lostRank(0, nodes, why).Reason}
	}
	return rankMessage{Bye: true}
}

// compare opens the engine once all ranks have loaded, if they loaded the same.
func (r *ranks) compare(fingerprints map[int]string, nodes int) error {
	for rank, f := range fingerprints {
		for other, g := range fingerprints {
			if f != g {
				return &ExitError{1, fmt.Sprintf("ranks %d and %d of %d loaded different weights (%s and %s); all ranks end", min(rank, other), max(rank, other), nodes, f, g)}
			}
		}
	}
	if len(fingerprints) == nodes {
		close(r.all)
	}
	return nil
}

// admit lets ranks in until ctx ends.
func (r *ranks) admit(ctx context.Context, l net.Listener, group *errgroup.Group) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("accept ranks on %s: %w", l.Addr(), err)
		}
		group.Go(func() error {
			r.greet(ctx, newRankConn(conn))
			return nil
		})
	}
}

// greet asks who is there, and serves a rank that belongs here until it is told goodbye. Anyone else is sent away.
func (r *ranks) greet(ctx context.Context, c *rankConn) {
	defer c.conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetReadDeadline(time.Now()) })
	defer stop()
	challenge := randomID(16)
	if c.send(rankMessage{Challenge: challenge}) != nil {
		return
	}
	hello, err := c.receive(rankHandshake)
	if err != nil {
		return
	}
	opts := r.s.opts
	switch {
	case !hmac.Equal([]byte(hello.Proof), []byte(proof(opts.GroupSecret, challenge, hello.Rank))):
		_ = c.send(rankMessage{Refused: "it does not know the secret of this engine's run"})
		return
	case hello.Rank < 1 || hello.Rank >= opts.Nodes || hello.Nodes != opts.Nodes:
		_ = c.send(rankMessage{Refused: fmt.Sprintf("this engine has %d ranks", opts.Nodes)})
		return
	}
	m := &member{rank: hello.Rank, conn: c, out: make(chan rankMessage, 1)}
	select {
	case r.joined <- m:
		r.s.log.Info().Int("rank", m.rank).Msg("rank joined")
		m.speak()
	case <-ctx.Done():
	}
}

// speak sends beats to a member, and its last message when there is one.
func (m *member) speak() {
	beat := time.NewTicker(rankBeat)
	defer beat.Stop()
	for {
		select {
		case last := <-m.out:
			_ = m.conn.send(last)
			return
		case <-beat.C:
			_ = m.conn.send(rankMessage{Beat: true}) // if it is gone, hear finds out
		}
	}
}

// hear passes on what a member says, until it is lost.
func (r *ranks) hear(ctx context.Context, m *member, heard chan<- said) error {
	for {
		msg, err := m.conn.receive(rankSilence)
		select {
		case heard <- said{m, msg, err}:
		case <-ctx.Done():
			return nil
		}
		if err != nil {
			m.out <- rankMessage{Bye: true}
			return nil
		}
	}
}
