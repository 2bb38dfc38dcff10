package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/urfave/cli/v2"
	"google.golang.org/protobuf/types/known/durationpb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

func kvFlushCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "flush", Usage: "write to the lowest KV tier all that it does not have", ArgsUsage: "[DEPLOYMENT]",
		Description: "Agents of running replicas write what matters most first, also what the lowest tier was too slow or too dead for before,\n" +
			"and make it durable. Replicas serve meanwhile.",
		Flags:  []cli.Flag{kvReplicaFlag(), kvDeploymentFlag(), kvWithinFlag()},
		Action: action(std, parseKVMove("flush"), runKVMove),
	}
}

func kvWarmCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "warm", Usage: "bring KV blocks from lower tiers into host memory", ArgsUsage: "[DEPLOYMENT]",
		Description: "Agents of running replicas read the newest blocks of the fastest tier first, until host memory is full.",
		Flags:       []cli.Flag{kvReplicaFlag(), kvDeploymentFlag(), kvWithinFlag()},
		Action:      action(std, parseKVMove("warm"), runKVMove),
	}
}

func kvWithinFlag() cli.Flag {
	return &cli.DurationFlag{Name: "within", Usage: "stop then at the latest", Value: time.Minute}
}

type kvMoveOptions struct {
	kvTarget
	verb   string
	within time.Duration
}

func parseKVMove(verb string) func(*cli.Context) (kvMoveOptions, error) {
	return func(c *cli.Context) (kvMoveOptions, error) {
		t, err := parseKVTarget(c)
		o := kvMoveOptions{t, verb, c.Duration("within")}
		if err == nil && o.within <= 0 {
			err = usageError("--within %s: there must be some time", o.within)
		}
		return o, err
	}
}

// replicaName is who has moved what.
type replicaName struct{ deployment, replica string }

func runKVMove(ctx context.Context, inv *invocation, o kvMoveOptions) error {
	now := map[replicaName]*apiv1.KVMoved{}
	var failed kvFailures
	progress := inv.newBar(o.verb, 0, "blocks")
	q := &apiv1.KVRequest{Deployment: o.deployment, Replica: o.replica, Verb: o.verb, Within: durationpb.New(o.within)}
	err := inv.askKV(ctx, q, func(part *apiv1.KVResponse) error {
		failed.note(part)
		if part.Moved != nil {
			now[replicaName{part.Deployment, rankText(part.Replica, part.NodeRank)}] = part.Moved
			progress.total = 0
			var done int64
			for _, m := range now {
				progress.total += int64(m.Total)
				done += int64(m.Blocks + m.There + m.Failed)
			}
			progress.at(min(done, progress.total))
		}
		return nil
	})
	progress.end()
	if err != nil {
		return err
	}
	if err := failed.check(inv, len(now) > 0); err != nil {
		return err
	}
	return inv.printMoved(o.verb, now, failed)
}

func (inv *invocation) printMoved(verb string, all map[replicaName]*apiv1.KVMoved, failed kvFailures) error {
	names := slices.SortedFunc(maps.Keys(all), func(a, b replicaName) int {
		return cmp.Or(cmp.Compare(a.deployment, b.deployment), cmp.Compare(a.replica, b.replica))
	})
	docs, cells := []any{}, [][]string{}
	for _, n := range names {
		m := all[n]
		doc := plain(m.ProtoReflect())
		doc["deployment"], doc["replica"] = n.deployment, n.replica
		delete(doc, "total")
		docs = append(docs, doc)
		end := "all"
		if m.Left || !m.Done {
			end = "not all: " + map[string]string{"flush": "time was over, or the tier does not answer", "warm": "time was over, or memory is full"}[verb]
		}
		cells = append(cells, []string{n.deployment, n.replica, fmt.Sprint(m.Blocks), bytesText(m.Bytes), fmt.Sprint(m.There), fmt.Sprint(m.Failed), end})
	}
	if inv.json() {
		return inv.printJSON("kv_"+verb, map[string]any{"replicas": docs, "failed": failed.documents()})
	}
	return inv.table([]string{"DEPLOYMENT", "REPLICA", "MOVED", "BYTES", "THERE BEFORE", "FAILED", "DONE"}, cells)
}
