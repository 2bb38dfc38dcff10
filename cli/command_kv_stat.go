package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/penstock/penstock/kvstore"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

func kvStatCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "stat", Usage: "what each KV tier holds and has done", ArgsUsage: "[DEPLOYMENT]",
		Description: "Of running replicas, by their agents; with --disk or --object of a folder or a bucket, without a controller.\n" +
			"Counters count since the replica's run began. A dash is what nobody knows.",
		Flags:  append([]cli.Flag{kvReplicaFlag(), kvDeploymentFlag()}, kvPlaceFlags()...),
		Action: action(std, parseKVTarget, runKVStat),
	}
}

func kvReplicaFlag() cli.Flag {
	return &cli.StringFlag{Name: "replica", Usage: "only this one: ROLE/INDEX or its launch"}
}

func kvDeploymentFlag() cli.Flag {
	return &cli.StringFlag{Name: "deployment", Usage: "the same as the argument"}
}

// kvTarget is what a command asks: replicas, or a place.
type kvTarget struct {
	deployment, replica string
	place               kvPlace
}

func parseKVTarget(c *cli.Context) (o kvTarget, err error) {
	if o.deployment, err = optional(c); err != nil {
		return o, err
	}
	if d := c.String("deployment"); d != "" {
		if o.deployment != "" && o.deployment != d {
			return o, usageError("penstock kv %s: %q and --deployment %q are two deployments", c.Command.Name, o.deployment, d)
		}
		o.deployment = d
	}
	o.replica = c.String("replica")
	if o.place, err = parseKVPlace(c); err != nil {
		return o, err
	}
	switch {
	case o.place.named() && (o.deployment != "" || o.replica != ""):
		return o, usageError("penstock kv %s asks a deployment, or looks at --disk or --object, not both", c.Command.Name)
	case o.replica != "" && o.deployment == "":
		return o, usageError("--replica needs a deployment")
	}
	return o, nil
}

// kvTierRow is one line of stat.
type kvTierRow struct {
	deployment, replica string
	tier                *apiv1.KVTier
}

func runKVStat(ctx context.Context, inv *invocation, o kvTarget) error {
	var rows []kvTierRow
	var failed kvFailures
	var err error
	if o.place.named() {
		err = o.place.with(ctx, inv, kvBounds{}, func(open []openPlace) error {
			for _, s := range open {
				row, err := placeRow(ctx, s)
				if err != nil {
					return err
				}
				rows = append(rows, row)
			}
			return nil
		})
	} else {
		err = inv.askKV(ctx, &apiv1.KVRequest{Deployment: o.deployment, Replica: o.replica, Verb: "stat"}, func(part *apiv1.KVResponse) error {
			failed.note(part)
			for _, t := range part.Tiers {
				rows = append(rows, kvTierRow{part.Deployment, rankText(part.Replica, part.NodeRank), t})
			}
			return nil
		})
	}
	if err != nil {
		return err
	}
	if err := failed.check(inv, len(rows) > 0); err != nil {
		return err
	}
	sortRows(rows)
	if inv.json() {
		return inv.printJSON("kv_stat", map[string]any{"tiers": tierDocuments(rows), "failed": failed.documents()})
	}
	return inv.printTiers(rows)
}

// placeRow is what a folder or a bucket holds now. It has served nobody, so that its counters say nothing.
func placeRow(ctx context.Context, s openPlace) (kvTierRow, error) {
	t := &apiv1.KVTier{Tier: s.Stats().Tier.String()}
	var blocks uint64
	err := s.List(ctx, func(kvstore.Key, kvstore.Info) error { blocks++; return nil })
	if err != nil {
		return kvTierRow{}, err
	}
	bytes := uint64(max(0, s.Stats().Bytes))
	if s.object != nil {
		_, n, err := s.object.Taken(ctx)
		if err != nil {
			return kvTierRow{}, err
		}
		bytes = uint64(n)
	}
	t.Blocks, t.Bytes, t.Corrupt = &blocks, &bytes, uint64(s.Stats().Corrupt)
	return kvTierRow{s.name, "", t}, nil
}

func (inv *invocation) printTiers(rows []kvTierRow) error {
	var cells [][]string
	for _, r := range rows {
		t := r.tier
		cells = append(cells, []string{
			orDash(r.deployment), orDash(r.replica), t.Tier, orUnknown(t.Blocks, "%d"), sizeOrDash(t.Bytes), sizeOrDash(t.Budget),
			strconv.FormatUint(t.Hits, 10), strconv.FormatUint(t.Misses, 10), bytesText(t.ReadBytes), bytesText(t.WrittenBytes),
			strconv.FormatUint(t.Evicted, 10), strconv.FormatUint(t.Drops, 10), strconv.FormatUint(t.Corrupt, 10), strconv.FormatUint(t.Errors, 10),
		})
	}
	return inv.table([]string{"DEPLOYMENT", "REPLICA", "TIER", "BLOCKS", "BYTES", "BUDGET", "HITS", "MISSES", "READ", "WRITTEN", "EVICTED", "DROPPED", "CORRUPT", "ERRORS"}, cells)
}

func sizeOrDash(n *uint64) string {
	if n == nil {
		return "-"
	}
	return bytesText(*n)
}

func tierDocuments(rows []kvTierRow) []any {
	out := []any{}
	for _, r := range rows {
		doc := plain(r.tier.ProtoReflect())
		doc["deployment"], doc["replica"] = r.deployment, r.replica
		out = append(out, doc)
	}
	return out
}

// kvFailures are replicas that could not be asked.
type kvFailures []*apiv1.KVResponse

func (f *kvFailures) note(part *apiv1.KVResponse) {
	if part.Error != "" {
		*f = append(*f, part)
	}
}

func (f kvFailures) documents() []any {
	out := []any{}
	for _, p := range f {
		out = append(out, map[string]any{"deployment": p.Deployment, "replica": rankText(p.Replica, p.NodeRank), "launch": p.Launch, "error": p.Error})
	}
	return out
}

// check says which replicas did not answer. That is an error where none did.
func (f kvFailures) check(inv *invocation, some bool) error {
	var all []string
	for _, p := range f {
		all = append(all, fmt.Sprintf("%s %s: %s", p.Deployment, rankText(p.Replica, p.NodeRank), printable(p.Error)))
	}
	switch {
	case some:
		for _, text := range all {
			inv.say("%s", text)
		}
		return nil
	case len(f) > 0:
		return fail(ExitError, "", "no replica answered: %s", strings.Join(all, "; "))
	}
	return fail(ExitNotFound, "penstock status lists what runs; --disk DIR and --object URL look at what lies there", "no replica runs that could be asked")
}

// askKV asks the controller, which asks the agents.
func (inv *invocation) askKV(ctx context.Context, q *apiv1.KVRequest, each func(*apiv1.KVResponse) error) error {
	client, done, err := inv.control()
	if err != nil {
		return err
	}
	defer done()
	answers, err := client.KV(ctx, q)
	if err != nil {
		return err
	}
	defer answers.Close()
	for answers.Receive() {
		if err := each(answers.Msg()); err != nil {
			return err
		}
	}
	if err := answers.Err(); err != nil {
		return fmt.Errorf("ask for KV tiers: %w", err)
	}
	return nil
}
