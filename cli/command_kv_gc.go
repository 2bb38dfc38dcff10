package cli

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/kvstore/object"
)

func kvCollectCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "gc", Usage: "remove the oldest KV blocks of a folder or a bucket",
		Description: "Until no more than --budget is left, and in a bucket whatever was neither written nor read for --max-age. Other clusters may\n" +
			"use the bucket meanwhile: what they ask for and is gone is a miss. Replicas do the same by themselves, by the budgets of\n" +
			"their deployment files.",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "budget", Usage: "leave at most so much, e.g. 500GiB"},
			&cli.DurationFlag{Name: "max-age", Usage: "remove what was not used for so long, e.g. 720h (--object alone)"},
			&cli.BoolFlag{Name: "dry-run", Usage: "remove nothing, say what would be (--object alone)"},
		}, kvPlaceFlags()...),
		Action: action(std, parseKVCollect, runKVCollect),
	}
}

type kvCollectOptions struct {
	place  kvPlace
	bounds kvBounds
	dryRun bool
}

func parseKVCollect(c *cli.Context) (o kvCollectOptions, err error) {
	if _, err := nothing(c); err != nil {
		return o, err
	}
	if o.place, err = offlinePlace(c); err != nil {
		return o, err
	}
	if text := c.String("budget"); text != "" {
		n, err := jobspecs.ParseBytes(text)
		if err != nil || n < 1<<20 {
			return o, usageError("--budget %q: a size of at least 1MiB, e.g. 500GiB", text)
		}
		o.bounds.budget = int64(n)
	}
	o.bounds.maxAge, o.dryRun = c.Duration("max-age"), c.Bool("dry-run")
	switch {
	case o.bounds.maxAge < 0:
		return o, usageError("--max-age %s is no age", o.bounds.maxAge)
	case o.bounds == kvBounds{}:
		return o, usageError("penstock kv gc needs --budget SIZE or --max-age TIME")
	case o.place.disk != "" && (o.bounds.maxAge > 0 || o.dryRun):
		return o, usageError("a disk tier forgets whole segments, to a --budget alone")
	}
	return o, nil
}

// gone is what was taken from a place, and what is left.
type gone struct {
	where, unit            string // unit: objects of a bucket, blocks of a disk
	objects, bytes         int64  // removed
	objectsLeft, bytesLeft int64
	dry                    bool
}

func runKVCollect(ctx context.Context, inv *invocation, o kvCollectOptions) error {
	var all []gone
	var err error
	if o.place.object != "" {
		err = o.place.with(ctx, inv, o.bounds, func(open []openPlace) error {
			g, err := collectBucket(ctx, inv, open[0], o.dryRun)
			all = append(all, g)
			return err
		})
	} else {
		all, err = collectDisk(ctx, inv, o)
	}
	if err != nil {
		return err
	}
	if inv.json() {
		docs := []any{}
		for _, g := range all {
			docs = append(docs, map[string]any{
				"where": g.where, "unit": g.unit, "removed": g.objects, "removed_bytes": g.bytes, "left": g.objectsLeft, "left_bytes": g.bytesLeft, "dry_run": g.dry,
			})
		}
		return inv.printJSON("kv_gc", map[string]any{"places": docs})
	}
	for _, g := range all {
		word := "removed"
		if g.dry {
			word = "would remove"
		}
		_, err := fmt.Fprintf(inv.Out, "%s: %s %d %s, %s; %d, %s are left\n", g.where, word, g.objects, g.unit, bytesText(uint64(g.bytes)),
			g.objectsLeft, bytesText(uint64(g.bytesLeft)))
		if err != nil {
			return err
		}
	}
	return nil
}

func collectBucket(ctx context.Context, inv *invocation, s openPlace, dry bool) (gone, error) {
	_, before, err := s.object.Taken(ctx)
	if err != nil {
		return gone{}, err
	}
	progress := inv.newBar("gc", before, "bytes")
	defer progress.end()
	c, err := s.object.Collect(ctx, object.Collection{DryRun: dry, Progress: func(c object.Collected) { progress.at(min(before, c.RemovedBytes)) }})
	return gone{
		where: s.name, unit: "objects", objects: c.Removed, bytes: c.RemovedBytes, objectsLeft: c.Kept, bytesLeft: c.KeptBytes, dry: dry,
	}, err
}

// collectDisk opens each folder without a bound, to see what is there, and then with one, which makes room at once.
func collectDisk(ctx context.Context, inv *invocation, o kvCollectOptions) (all []gone, err error) {
	look := func(each func(i int, s openPlace)) func([]openPlace) error {
		return func(open []openPlace) error {
			for i, s := range open {
				each(i, s)
			}
			return nil
		}
	}
	err = o.place.with(ctx, inv, kvBounds{}, look(func(_ int, s openPlace) {
		st := s.Stats()
		all = append(all, gone{where: s.name, unit: "blocks", objects: st.Blocks, bytes: st.Bytes})
	}))
	if err != nil {
		return nil, err
	}
	return all, o.place.with(ctx, inv, o.bounds, look(func(i int, s openPlace) {
		st := s.Stats()
		g := &all[i]
		g.objects, g.bytes, g.objectsLeft, g.bytesLeft = g.objects-st.Blocks, g.bytes-st.Bytes, st.Blocks, st.Bytes
	}))
}
