package allocation

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"sync"
	"time"
)

// sight is what all keepers together say.
type sight struct {
	states map[string]NodeState // of the nodes that answer
	silent map[string]NodeState // what those have said last that do not answer and are not lost yet
}

// look asks all keepers at once. It fails where what they say would be no whole answer: nobody answers, or one does not
// that has never been heard of and is not lost yet.
func (c *Cluster) look(ctx context.Context) (sight, error) {
	if err := ctx.Err(); err != nil {
		return sight{}, err
	}
	c.discover()
	var wg sync.WaitGroup
	answers := make([]error, len(c.members))
	for i, name := range c.names() {
		wg.Go(func() { answers[i] = c.ask(ctx, name) })
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return sight{}, err
	}
	return c.conclude(answers)
}

// discover takes up the files of keepers that are not connected yet.
func (c *Cluster) discover() {
	c.mu.Lock()
	defer c.mu.Unlock()
	// The folder is listed: on NFS that asks the server, where a name that was missed once may be answered from a cache.
	names, err := c.fs.List(c.o.Dir)
	if err != nil {
		c.o.Log.Warn().Err(err).Msg("folder of the job not listed")
		return
	}
	for _, m := range c.members {
		if m.client != nil || !slices.Contains(names, memberPrefix+m.name+".json") {
			continue
		}
		file, err := readMember(c.o.Dir, m.name)
		if err == nil {
			m.client, err = connect(file, c.o.Certificate)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.o.Log.Warn().Err(err).Str("node", m.name).Msg("keeper's file cannot be used")
		}
	}
}

var errNoKeeper = errors.New("its keeper has not been started yet")

func (c *Cluster) client(name string) *http.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.members[name]; m != nil {
		return m.client
	}
	return nil
}

// ask asks one keeper and keeps what it says.
func (c *Cluster) ask(ctx context.Context, name string) error {
	client := c.client(name)
	if client == nil {
		return errNoKeeper
	}
	state, err := call[NodeState](ctx, client, "/state", nil)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.members[name]
	if m.gone {
		c.o.Log.Info().Str("node", name).Msg("node answers again")
	}
	state.Node.Name = name
	m.seen, m.gone, m.last = time.Now(), false, state
	for key, t := range c.lost { // its keeper knows better now
		if t.node == name {
			delete(c.lost, key)
		}
	}
	return nil
}

// conclude decides who is lost.
func (c *Cluster) conclude(answers []error) (sight, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	got := sight{states: map[string]NodeState{}, silent: map[string]NodeState{}}
	var waiting []error
	for i, name := range c.names() {
		m, err := c.members[name], answers[i]
		if err == nil {
			got.states[name] = m.last
			continue
		}
		if m.client != nil { // its file is read again: the keeper may be another one
			m.client.CloseIdleConnections()
			m.client = nil
		}
		since := m.seen
		if since.IsZero() {
			since = c.since
		}
		switch {
		case now.Sub(since) >= c.o.LostAfter:
			c.lose(m, err, now)
		case m.seen.IsZero():
			waiting = append(waiting, fmt.Errorf("node %s: %w", name, err))
		default:
			got.silent[name] = m.last
		}
	}
	switch {
	case len(waiting) > 0:
		return sight{}, errors.Join(waiting...)
	case len(got.states) == 0:
		return sight{}, fmt.Errorf("no node of the allocation answers: %w", errors.Join(answers...))
	}
	return got, nil
}

// lostTask is a task whose node is gone, as one that has ended.
type lostTask struct {
	Task
	node   string
	killed bool // it lived when the node was lost
}

// lose writes down what ran on a node that is lost.
func (c *Cluster) lose(m *member, why error, now time.Time) {
	if m.gone {
		return
	}
	m.gone = true
	c.o.Log.Warn().Err(why).Str("node", m.name).Msg("node lost")
	for _, t := range m.last.Tasks {
		killed := t.live()
		if killed {
			t.Ended = now.UTC().Round(0)
			t.Reason = fmt.Sprintf("node %s has not answered for %s", m.name, c.o.LostAfter)
		}
		c.lost[fmt.Sprintf("%s/%d", t.Job, t.Rank)] = lostTask{Task: t, node: m.name, killed: killed}
	}
	m.last = NodeState{}
}

// forget drops what was lost long ago.
func (c *Cluster) forget(now time.Time) {
	for key, t := range c.lost {
		if now.Sub(t.Ended) > c.o.Remember {
			delete(c.lost, key)
		}
	}
}
