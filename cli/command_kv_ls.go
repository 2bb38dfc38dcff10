package cli

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/penstock/penstock/kvstore"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

func kvListCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "ls", Usage: "list KV blocks: their names, sizes and ages, never what is in them", ArgsUsage: "[DEPLOYMENT]",
		Description: "Of running replicas, by their agents; with --disk or --object of a folder or a bucket, without a controller.\n" +
			"A block is called SPACE/NAME/PART: the space stands for model, layout and tenant, the name for the tokens of the whole\n" +
			"prefix, the part for the rank. Names are shortened; --json has them whole.",
		Flags: append([]cli.Flag{
			kvReplicaFlag(), kvDeploymentFlag(),
			&cli.Uint64Flag{Name: "limit", Aliases: []string{"n"}, Usage: "at most so many of each tier; 0 = all", Value: 1000},
		}, kvPlaceFlags()...),
		Action: action(std, parseKVList, runKVList),
	}
}

type kvListOptions struct {
	kvTarget
	limit uint64
}

func parseKVList(c *cli.Context) (kvListOptions, error) {
	t, err := parseKVTarget(c)
	return kvListOptions{t, c.Uint64("limit")}, err
}

// kvBlockRow is one line of ls.
type kvBlockRow struct {
	where, replica, tier string
	key                  kvstore.Key
	size                 uint64
	stored               time.Time // zero = unknown
}

func runKVList(ctx context.Context, inv *invocation, o kvListOptions) error {
	var rows []kvBlockRow
	var failed kvFailures
	take := func(r kvBlockRow) error {
		if inv.json() {
			return inv.printLine("kv_block", r.document())
		}
		rows = append(rows, r)
		return nil
	}
	n, more := 0, false
	var err error
	if o.place.named() {
		err = o.place.with(ctx, inv, kvBounds{}, func(open []openPlace) error {
			for _, s := range open {
				count, all, err := listPlace(ctx, s, o.limit, take)
				if n += count; err != nil {
					return err
				}
				more = more || !all
			}
			return nil
		})
	} else {
		q := &apiv1.KVRequest{Deployment: o.deployment, Replica: o.replica, Verb: "list", Limit: o.limit}
		perTier := map[[3]string]uint64{}
		err = inv.askKV(ctx, q, func(part *apiv1.KVResponse) error {
			failed.note(part)
			for _, b := range part.Blocks {
				n++
				at := [3]string{part.Deployment, rankText(part.Replica, part.NodeRank), b.Tier}
				perTier[at]++
				more = more || perTier[at] == o.limit
				if err := take(blockRow(part, b)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return err
	}
	if err := failed.check(inv, n > 0 || o.place.named() || len(failed) == 0); err != nil || inv.json() {
		return err
	}
	if more {
		inv.say("perhaps not all: --limit 0 lists all of each tier")
	}
	return inv.printBlocks(rows)
}

func listPlace(ctx context.Context, s openPlace, limit uint64, take func(kvBlockRow) error) (n int, all bool, err error) {
	enough := errors.New("enough")
	err = s.List(ctx, func(k kvstore.Key, info kvstore.Info) error {
		if limit > 0 && uint64(n) >= limit {
			return enough
		}
		n++
		return take(kvBlockRow{where: s.name, tier: s.Stats().Tier.String(), key: k, size: uint64(info.Size), stored: info.StoredAt})
	})
	if errors.Is(err, enough) {
		return n, false, nil
	}
	return n, true, err
}

func blockRow(part *apiv1.KVResponse, b *apiv1.KVBlock) kvBlockRow {
	r := kvBlockRow{where: part.Deployment, replica: rankText(part.Replica, part.NodeRank), tier: b.Tier, size: b.Size}
	copy(r.key.Space[:], b.Space)
	copy(r.key.Name[:], b.Name)
	r.key.Part = uint16(b.Part)
	if b.StoredAt != nil {
		r.stored = b.StoredAt.AsTime()
	}
	return r
}

// keyText is a block's whole name.
func keyText(k kvstore.Key) string {
	return fmt.Sprintf("%s/%s/%d", hex.EncodeToString(k.Space[:]), hex.EncodeToString(k.Name[:]), k.Part)
}

func (r kvBlockRow) document() map[string]any {
	doc := map[string]any{"where": r.where, "replica": r.replica, "tier": r.tier, "key": keyText(r.key), "size": r.size, "stored_at": nil}
	if !r.stored.IsZero() {
		doc["stored_at"] = r.stored.UTC().Format(time.RFC3339Nano)
	}
	return doc
}

func (inv *invocation) printBlocks(rows []kvBlockRow) error {
	var cells [][]string
	for _, r := range rows {
		age := "-"
		if !r.stored.IsZero() {
			age = ageText(inv.now().Sub(r.stored))
		}
		where := r.where
		if r.replica != "" {
			where += " " + r.replica
		}
		cells = append(cells, []string{r.key.String(), bytesText(r.size), age, r.tier, where})
	}
	return inv.table([]string{"BLOCK", "SIZE", "AGE", "TIER", "WHERE"}, cells)
}

// sortRows puts rows of replicas that answered at one time into the order of their names; a replica's own order stays.
func sortRows(rows []kvTierRow) {
	slices.SortStableFunc(rows, func(a, b kvTierRow) int {
		return cmp.Or(cmp.Compare(a.deployment, b.deployment), cmp.Compare(a.replica, b.replica))
	})
}
