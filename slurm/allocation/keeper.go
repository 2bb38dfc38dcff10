package allocation

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/scheduler/cluster"
)

// Tree is a started agent with everything that came out of it.
type Tree interface {
	// Wait waits until nothing of the tree is left and tells how its first process ended.
	Wait(ctx context.Context) (cluster.Exit, error)
	// Stop asks the first process to end and kills the whole tree after the grace. It may be called again, for a shorter
	// grace, and returns when nothing is left or ctx has ended.
	Stop(ctx context.Context, grace time.Duration) error
}

// KeeperOptions say what a keeper has. Node and Start are required.
type KeeperOptions struct {
	Node  cluster.Node // this node as placement sees it
	Start func(Order) (Tree, error)
	// Grace is what agents have when the keeper itself is told to end: the site's time between TERM and KILL.
	Grace time.Duration
	// Orphaned: a keeper that has not heard of a controller for so long, and whose agents have all ended by themselves,
	// ends too. Default 30m.
	Orphaned time.Duration
	Remember time.Duration // how long ended tasks are told of; default 1h
	Log      zerolog.Logger
}

// Keeper starts, watches and ends the agents of one node. All that it knows is in memory: when it ends, Slurm ends all that
// it has started.
type Keeper struct {
	o    KeeperOptions
	life context.Context // of what waits for tasks and ends them
	end  context.CancelFunc
	work sync.WaitGroup
	left chan struct{} // closed when it is dismissed

	mu    sync.Mutex
	tasks map[string]*task
	heard time.Time
	gone  bool // it takes no orders any more
}

type task struct {
	Task
	tree Tree
}

// NewKeeper checks the options. Nothing runs yet.
func NewKeeper(o KeeperOptions) (*Keeper, error) {
	if o.Node.Name == "" || o.Start == nil {
		return nil, errors.New("keeper: Node and Start must be set")
	}
	if o.Orphaned == 0 {
		o.Orphaned = 30 * time.Minute
	}
	if o.Remember == 0 {
		o.Remember = time.Hour
	}
	life, end := context.WithCancel(context.Background())
	return &Keeper{o: o, life: life, end: end, left: make(chan struct{}), tasks: map[string]*task{}, heard: time.Now()}, nil
}

// lookEvery is how often a keeper looks whether it is still needed.
const lookEvery = time.Second

// Run keeps until ctx ends (Slurm's TERM, which agents have had too), the controller dismisses it, or it is orphaned; then it
// ends what still runs and returns when nothing does.
func (k *Keeper) Run(ctx context.Context) error {
	defer k.work.Wait()
	defer k.end()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			k.o.Log.Info().Msg("keeper told to end")
			k.halt(halt{Grace: k.o.Grace, Leave: true})
			return k.empty()
		case <-k.left:
			k.o.Log.Info().Msg("keeper dismissed")
			return k.empty()
		case now := <-tick.C:
			if k.orphaned(now) {
				return fmt.Errorf("no controller has asked for %s, and nothing runs here", k.o.Orphaned)
			}
		}
	}
}

// empty waits until nothing runs.
func (k *Keeper) empty() error {
	for {
		k.mu.Lock()
		var next *task
		for _, t := range k.tasks {
			if t.live() {
				next = t
			}
		}
		k.mu.Unlock()
		if next == nil {
			return nil
		}
		if _, err := next.tree.Wait(k.life); err != nil {
			return fmt.Errorf("agent of job %s: %w", next.Job, err)
		}
		time.Sleep(time.Millisecond) // until attend has written it down
	}
}

func (k *Keeper) orphaned(now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, t := range k.tasks {
		if t.live() {
			return false
		}
		if now.Sub(t.Ended) > k.o.Remember {
			delete(k.tasks, id)
		}
	}
	return now.Sub(k.heard) > k.o.Orphaned
}

// State is what the keeper tells of its node.
func (k *Keeper) State() NodeState {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.heard = time.Now()
	return k.state()
}

func (k *Keeper) state() NodeState {
	s := NodeState{Node: k.o.Node, Tasks: []Task{}}
	for _, t := range k.tasks {
		s.Tasks = append(s.Tasks, t.Task)
	}
	return s
}

func (o Order) key() string { return o.Job + "/" + strconv.Itoa(o.Rank) }

// start obeys an order, or says why not; then nothing was started.
func (k *Keeper) start(o Order) (Task, error) {
	if err := o.validate(k.o.Node.Name); err != nil {
		return Task{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone {
		return Task{}, errors.New("the node leaves the allocation")
	}
	if err := k.state().free(o.Launch, o.GPUs); err != nil {
		return Task{}, err
	}
	tree, err := k.o.Start(o)
	if err != nil {
		return Task{}, fmt.Errorf("start the agent on node %s: %w", k.o.Node.Name, err)
	}
	t := &task{tree: tree, Task: Task{Job: o.Job, Launch: o.Launch, Rank: o.Rank, Nodes: o.Nodes, GPUs: o.GPUs, Started: time.Now().UTC().Round(0)}}
	k.tasks[o.key()] = t
	k.work.Go(func() { k.attend(t) })
	k.o.Log.Info().Str("launch", string(o.Launch)).Str("job", o.Job).Int("rank", o.Rank).Msg("agent started")
	return t.Task, nil
}

// attend waits for the end of a task and writes it down.
func (k *Keeper) attend(t *task) {
	exit, err := t.tree.Wait(k.life)
	k.mu.Lock()
	defer k.mu.Unlock()
	t.Ended = time.Now().UTC().Round(0)
	if err != nil {
		t.Reason = "its keeper ended before it"
		return
	}
	t.Exit = &exit
	t.Reason = describe(exit, t.Stopping)
	k.o.Log.Info().Str("job", t.Job).Int("rank", t.Rank).Str("reason", t.Reason).Msg("agent ended")
}

// describe says in words how an agent ended.
func describe(exit cluster.Exit, asked bool) string {
	how := "exited with code " + strconv.Itoa(exit.Code)
	if exit.Signal != 0 {
		how = fmt.Sprintf("killed by signal %d (%s)", exit.Signal, unix.SignalName(unix.Signal(exit.Signal)))
	}
	if asked {
		return "stopped: " + how
	}
	return how
}

// killSlack is how long after the grace the killing may take before nobody waits for it any more.
const killSlack = 30 * time.Second

// halt ends tasks. It returns at once.
func (k *Keeper) halt(h halt) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, t := range k.tasks {
		if h.Job != "" && t.Job != h.Job {
			continue
		}
		if t.live() {
			t.Stopping = true
			k.work.Go(func() { k.stop(t, h.Grace) })
		}
	}
	if h.Leave && !k.gone {
		k.gone = true
		close(k.left)
	}
}

func (k *Keeper) stop(t *task, grace time.Duration) {
	ctx, cancel := context.WithTimeout(k.life, grace+killSlack)
	defer cancel()
	if err := t.tree.Stop(ctx, grace); err != nil && k.life.Err() == nil {
		k.o.Log.Error().Err(err).Str("job", t.Job).Msg("agent not stopped")
	}
}

// drop ends a job's tasks here at once and forgets them.
func (k *Keeper) drop(job string) error {
	k.halt(halt{Job: job})
	k.mu.Lock()
	var doomed []*task
	for key, t := range k.tasks {
		if t.Job == job {
			doomed = append(doomed, t)
			delete(k.tasks, key)
		}
	}
	k.mu.Unlock()
	for _, t := range doomed {
		if _, err := t.tree.Wait(k.life); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
	}
	return nil
}
