package allocation

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
)

// Submit has the keepers of the placement start the job's agents, all of one run. Where a keeper says no, those that have
// begun are ended again, and no job is left.
func (c *Cluster) Submit(ctx context.Context, sub cluster.Submission) (string, error) {
	id, err := c.submit(ctx, sub)
	if err != nil {
		return "", fmt.Errorf("submit launch %s to the allocation: %w", sub.Launch.ID, err)
	}
	return id, nil
}

func (c *Cluster) submit(ctx context.Context, sub cluster.Submission) (string, error) {
	seen, err := c.look(ctx)
	if err != nil {
		return "", unknown(err)
	}
	l := sub.Launch
	if err := check(l, seen.states); err != nil {
		return "", refused(err)
	}
	orders := c.orders(sub)
	errs := make([]error, len(orders))
	var wg sync.WaitGroup
	for i, o := range orders {
		wg.Go(func() { errs[i] = c.order(ctx, o) })
	}
	wg.Wait()
	err = errors.Join(errs...)
	if err == nil {
		return orders[0].Job, nil
	}
	undo := c.undo(context.WithoutCancel(ctx), orders, errs)
	if undo == nil && !slices.ContainsFunc(errs, func(e error) bool { return e != nil && !errors.Is(e, errNo) }) {
		return "", refused(err)
	}
	return "", unknown(errors.Join(err, undo))
}

// order has one keeper start its task, and remembers it: the node may be lost before it is asked again.
func (c *Cluster) order(ctx context.Context, o Order) error {
	node := o.Nodes[o.Rank]
	client := c.client(node)
	if client == nil {
		return errNoKeeper
	}
	t, err := call[Task](ctx, client, "/start", o)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.members[node]
	m.last.Tasks = append(slices.Clip(m.last.Tasks), t)
	return nil
}

// orders are what each rank's keeper is told.
func (c *Cluster) orders(sub cluster.Submission) []Order {
	l := sub.Launch
	var nonce [8]byte
	_, _ = rand.Read(nonce[:]) // never fails: crypto/rand ends the program first
	run := hex.EncodeToString(nonce[:])
	var nodes []string
	for _, p := range l.Placement {
		nodes = append(nodes, p.Node)
	}
	orders := make([]Order, len(l.Placement))
	for rank, p := range l.Placement {
		orders[rank] = Order{
			Job: jobID(l.ID, run), Launch: l.ID, Run: run, Rank: rank, Nodes: nodes, GPUs: p.GPUs,
			Argv: c.o.AgentCommand(sub, jobID(l.ID, run), rank), LogDir: sub.LogDir,
		}
	}
	return orders
}

// undo takes back what a submit has begun. A keeper that said no has nothing to take back.
func (c *Cluster) undo(ctx context.Context, orders []Order, errs []error) error {
	var all []error
	for i, o := range orders {
		client := c.client(o.Nodes[o.Rank])
		switch {
		case errors.Is(errs[i], errNo):
		case client == nil:
			all = append(all, errNoKeeper)
		default:
			_, err := call[struct{}](ctx, client, "/stop", halt{Job: o.Job, Forget: true})
			all = append(all, err)
		}
	}
	return errors.Join(all...)
}

// check refuses what the allocation does not have or has given away. Keepers check their own nodes again.
func check(l cluster.Launch, states map[string]NodeState) error {
	if !jobIDs.MatchString(string(l.ID) + ".0123456789abcdef") {
		return fmt.Errorf("%q is no launch token: at most 40 of a-z, 0-9 and dashes", l.ID)
	}
	if len(l.Placement) == 0 || len(l.Placement) != max(1, l.Nodes) {
		return fmt.Errorf("the placement names %d nodes, the launch has %d", len(l.Placement), max(1, l.Nodes))
	}
	for i, p := range l.Placement {
		s, ok := states[p.Node]
		if !ok {
			return fmt.Errorf("the allocation has no node %q that answers; `penstock nodes` lists them", p.Node)
		}
		if slices.ContainsFunc(l.Placement[:i], func(q cluster.Placement) bool { return q.Node == p.Node }) {
			return fmt.Errorf("the placement names node %s twice", p.Node)
		}
		if err := s.free(l.ID, p.GPUs); err != nil {
			return err
		}
	}
	return nil
}

// free checks that the node has the cards and that no task there holds one, or is of the launch.
func (s NodeState) free(launch cluster.LaunchID, gpus []string) error {
	for i, g := range gpus {
		switch has := slices.ContainsFunc(s.Node.GPUs, func(n cluster.GPU) bool { return n.ID == g }); {
		case !has:
			return fmt.Errorf("node %s has no GPU %s", s.Node.Name, g)
		case slices.Contains(gpus[:i], g):
			return fmt.Errorf("the placement names GPU %s twice", g)
		}
	}
	for _, t := range s.Tasks {
		if t.Launch == launch {
			return fmt.Errorf("the launch has a job already: %s", t.Job)
		}
		if !t.live() {
			continue
		}
		for _, g := range gpus {
			if slices.Contains(t.GPUs, g) {
				return fmt.Errorf("GPU %s of node %s is held by job %s", g, s.Node.Name, t.Job)
			}
		}
	}
	return nil
}

// Stop has the keepers of a job's nodes ask its agents to end and kill them after the grace. A node that is lost has
// nothing that could be stopped.
func (c *Cluster) Stop(ctx context.Context, job string, grace time.Duration) error {
	seen, err := c.look(ctx)
	if err != nil {
		return fmt.Errorf("stop job %s of the allocation: %w", job, unknown(err))
	}
	var all []error
	runs := func(s NodeState) bool {
		return slices.ContainsFunc(s.Tasks, func(t Task) bool { return t.Job == job && t.live() })
	}
	for name, s := range seen.silent {
		if runs(s) {
			all = append(all, fmt.Errorf("node %s does not answer", name))
		}
	}
	for name, s := range seen.states {
		client := c.client(name)
		if !runs(s) || client == nil {
			continue
		}
		if _, err := call[struct{}](ctx, client, "/stop", halt{Job: job, Grace: max(0, grace)}); err != nil {
			all = append(all, fmt.Errorf("node %s: %w", name, err))
		}
	}
	if err := errors.Join(all...); err != nil {
		return fmt.Errorf("stop job %s of the allocation: %w", job, unknown(err))
	}
	return nil
}

// Dismiss has all keepers that answer end whatever still runs, with that grace, and then themselves: the allocation is over.
func (c *Cluster) Dismiss(ctx context.Context, grace time.Duration) error {
	var all []error
	for _, name := range c.names() {
		client := c.client(name)
		if client == nil {
			continue
		}
		if _, err := call[struct{}](ctx, client, "/stop", halt{Grace: grace, Leave: true}); err != nil {
			all = append(all, fmt.Errorf("dismiss the keeper of node %s: %w", name, err))
		}
		client.CloseIdleConnections()
	}
	return errors.Join(all...)
}

// Present lists the nodes whose keepers have been heard of.
func (c *Cluster) Present() (nodes []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range c.names() {
		if !c.members[name].seen.IsZero() {
			nodes = append(nodes, name)
		}
	}
	return nodes
}

// Heard is when any keeper has answered last; zero = none has.
func (c *Cluster) Heard() (at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.members {
		if m.seen.After(at) {
			at = m.seen
		}
	}
	return at
}
