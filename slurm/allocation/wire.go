package allocation

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
)

// What controller and keepers say to each other is JSON over HTTP: both come from one program on one allocation. Unknown
// fields are passed over, so that a controller that was upgraded inside a job still understands its keepers.

// NodeState is all that a keeper knows.
type NodeState struct {
	Node  cluster.Node `json:"node"`
	Tasks []Task       `json:"tasks"`
}

// Task is one rank of a job on a keeper's node.
type Task struct {
	Job      string           `json:"job"`
	Launch   cluster.LaunchID `json:"launch"`
	Rank     int              `json:"rank"`
	Nodes    []string         `json:"nodes"` // of all ranks
	GPUs     []string         `json:"gpus,omitempty"`
	Started  time.Time        `json:"started"`
	Stopping bool             `json:"stopping,omitempty"`
	Ended    time.Time        `json:"ended,omitzero"`
	Exit     *cluster.Exit    `json:"exit,omitempty"` // nil = lives, or nobody knows
	Reason   string           `json:"reason,omitempty"`
}

// live tells whether something of the task runs.
func (t Task) live() bool { return t.Ended.IsZero() }

// Order starts one task. Argv holds no secret.
type Order struct {
	Job    string           `json:"job"`
	Launch cluster.LaunchID `json:"launch"`
	Run    string           `json:"run"`
	Rank   int              `json:"rank"`
	Nodes  []string         `json:"nodes"`
	GPUs   []string         `json:"gpus,omitempty"`
	Argv   []string         `json:"argv"`
	LogDir string           `json:"log_dir"`
}

func (o Order) validate(node string) error {
	m := jobIDs.FindStringSubmatch(o.Job)
	switch {
	case m == nil || m[1] != string(o.Launch) || m[2] != o.Run:
		return fmt.Errorf("job %.80q is not of launch %.60q and run %.40q", o.Job, o.Launch, o.Run)
	case o.Rank < 0 || o.Rank >= len(o.Nodes) || o.Nodes[o.Rank] != node:
		return fmt.Errorf("rank %d of %d is not for node %s", o.Rank, len(o.Nodes), node)
	case len(o.Argv) == 0 || o.LogDir == "":
		return errors.New("an order names a command and a folder for its output")
	}
	return nil
}

// halt ends the ranks of a job on a keeper's node, or all of them where it names none.
type halt struct {
	Job    string        `json:"job,omitempty"`
	Grace  time.Duration `json:"grace"`
	Forget bool          `json:"forget,omitempty"` // it is to be as if the job had never been
	Leave  bool          `json:"leave,omitempty"`  // the keeper itself ends too, once nothing runs
}

// maxMessage bounds what either side reads of the other: a node has some hundred tasks at the very most.
const maxMessage = 16 << 20

func decode[T any](r io.Reader) (v T, err error) {
	err = json.NewDecoder(io.LimitReader(r, maxMessage)).Decode(&v)
	return v, err
}
