package sim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
)

const rankRetry = 200 * time.Millisecond

// follow is a rank above 0: it joins rank 0, tells when its weights are loaded, and ends with rank 0.
func (r *ranks) follow(ctx context.Context) error {
	opts := r.s.opts
	c, err := r.reach(ctx)
	if err != nil {
		return err
	}
	defer c.conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.conn.Close() })
	defer stop()
	challenge, err := c.receive(rankHandshake)
	if err != nil {
		return r.leaderLost(ctx, err)
	}
	err = c.send(rankMessage{Rank: opts.NodeRank, Nodes: opts.Nodes, Proof: proof(opts.GroupSecret, challenge.Challenge, opts.NodeRank)})
	if err != nil {
		return r.leaderLost(ctx, err)
	}
	group, inner := errgroup.WithContext(ctx)
	group.Go(func() error { return r.report(inner, c) })
	group.Go(func() error { return r.obey(inner, c) })
	return group.Wait()
}

// reach dials rank 0, which may start later.
func (r *ranks) reach(ctx context.Context) (*rankConn, error) {
	address := r.s.opts.masterAddress()
	ctx, cancel := context.WithTimeout(ctx, rankJoin)
	defer cancel()
	for d := (net.Dialer{Timeout: rankHandshake}); ; {
		conn, err := d.DialContext(ctx, "tcp", address)
		if err == nil {
			return newRankConn(conn), nil
		}
		if sleep(ctx, rankRetry) != nil {
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return nil, &ExitError{1, fmt.Sprintf("rank 0 did not answer at %s within %s: %v", address, rankJoin, err)}
			}
			return nil, ctx.Err()
		}
	}
}

// report tells rank 0 that this rank lives and when it has loaded.
func (r *ranks) report(ctx context.Context, c *rankConn) error {
	beat := time.NewTicker(rankBeat)
	defer beat.Stop()
	for {
		m := rankMessage{Beat: true}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case f := <-r.mine:
			m = rankMessage{Loaded: true, Fingerprint: f}
			close(r.all)
		case <-beat.C:
		}
		if err := c.send(m); err != nil {
			return r.leaderLost(ctx, err)
		}
	}
}

// errBye ends a rank because the engine ends as it should.
var errBye = errors.New("rank 0 ended as it should")

// obey listens to rank 0 until it ends.
func (r *ranks) obey(ctx context.Context, c *rankConn) error {
	for {
		m, err := c.receive(rankSilence)
		switch {
		case err != nil:
			return r.leaderLost(ctx, err)
		case m.Refused != "":
			return &ExitError{1, fmt.Sprintf("rank 0 refused rank %d: %s", r.s.opts.NodeRank, m.Refused)}
		case m.Lost != "":
			return &ExitError{1, m.Lost}
		case m.Bye:
			return errBye
		}
	}
}

func (r *ranks) leaderLost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return lostRank(0, r.s.opts.Nodes, err)
}
