package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/penstock/penstock/kvstore/evict"
)

func kvReplayCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "replay", Usage: "play a trace of requests on caches of some sizes and compare eviction policies",
		Description: "The trace has a line for each request: {\"timestamp\": MS, \"input_length\": TOKENS, \"hash_ids\": [N, ...]}, one hash for\n" +
			"each block of the prompt's prefix, as the Mooncake project publishes them; - is standard input. A hit is a block of\n" +
			"the leading run that is in the cache: what follows a gap is of no use. lru+session is told of each request whether\n" +
			"its conversation goes on; bound knows the whole future. Needs no controller.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "trace", Usage: "the trace's file"},
			&cli.StringFlag{Name: "blocks", Usage: "cache sizes in blocks, with commas between", Value: "1000,3000,10000,30000,100000"},
			&cli.IntFlag{Name: "block-tokens", Usage: "tokens of a block", Value: 512},
			&cli.DurationFlag{Name: "stay", Usage: "how long the session hint keeps a conversation that goes on", Value: 15 * time.Minute},
		},
		Action: action(std, parseReplay, runReplay),
	}
}

type replayOptions struct {
	trace       string
	sizes       []int64
	blockTokens int
	stay        time.Duration
}

func parseReplay(c *cli.Context) (o replayOptions, err error) {
	if _, err := nothing(c); err != nil {
		return o, err
	}
	o = replayOptions{trace: c.String("trace"), blockTokens: c.Int("block-tokens"), stay: c.Duration("stay")}
	switch {
	case o.trace == "":
		return o, usageError("penstock kv replay needs --trace FILE")
	case o.blockTokens < 1:
		return o, usageError("--block-tokens %d: a block has at least one token", o.blockTokens)
	case o.stay <= 0:
		return o, usageError("--stay %s: a hint must last", o.stay)
	}
	for s := range strings.SplitSeq(c.String("blocks"), ",") {
		n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
		if err != nil || n < 1 {
			return o, usageError("--blocks %q: %q is no number of blocks", c.String("blocks"), s)
		}
		o.sizes = append(o.sizes, n)
	}
	return o, nil
}

func runReplay(ctx context.Context, inv *invocation, o replayOptions) error {
	trace, err := inv.readTrace(o)
	if err != nil {
		return err
	}
	continued := evict.Conversations(trace)
	caches := replayCaches(trace, o)
	progress := inv.newBar("replay", int64(len(caches)*len(trace)), "requests")
	for i, c := range caches {
		for j, r := range trace {
			if j%256 == 0 {
				if ctx.Err() != nil {
					progress.end()
					return ctx.Err()
				}
				progress.at(int64(i*len(trace) + j))
			}
			c.replay.Serve(r)
		}
		caches[i].Result = c.replay.Result
		caches[i].replay = nil // its tables may be large
	}
	progress.end()
	if inv.json() {
		return inv.printJSON("kv_replay", replayDocument(trace, continued, caches, o))
	}
	inv.say("%d requests, %d blocks; conversations that go on later: %d", len(trace), caches[0].Asked, continued)
	return inv.printReplay(caches)
}

// replayCache is a cache of one size and policy under the trace.
type replayCache struct {
	blocks int64
	policy string
	replay *evict.Replay
	evict.Result
}

const (
	hinted = "lru+session"
	bound  = "bound"
)

func replayCaches(trace []evict.Request, o replayOptions) (out []replayCache) {
	for _, n := range o.sizes {
		for _, p := range evict.Policies() {
			out = append(out, replayCache{blocks: n, policy: p.String(), replay: evict.NewReplay(p, n, 0)})
		}
		out = append(out,
			replayCache{blocks: n, policy: hinted, replay: evict.NewReplay(evict.LRU, n, o.stay.Milliseconds())},
			replayCache{blocks: n, policy: bound, replay: evict.NewClairvoyant(trace, n)})
	}
	return out
}

func (inv *invocation) printReplay(caches []replayCache) error {
	head, rows := []string{"BLOCKS"}, [][]string(nil)
	for _, c := range caches {
		if c.blocks == caches[0].blocks && len(head) <= len(evict.Policies())+2 {
			head = append(head, strings.ToUpper(c.policy))
		}
		if c.policy == evict.LRU.String() {
			rows = append(rows, []string{strconv.FormatInt(c.blocks, 10)})
		}
		rows[len(rows)-1] = append(rows[len(rows)-1], fmt.Sprintf("%.3f", c.Ratio(c.Usable)))
	}
	return inv.table(head, rows)
}

func replayDocument(trace []evict.Request, continued int, caches []replayCache, o replayOptions) map[string]any {
	var results []map[string]any
	for _, c := range caches {
		results = append(results, map[string]any{
			"blocks": c.blocks, "policy": c.policy, "usable_blocks": c.Usable, "resident_blocks": c.Resident,
			"hit_ratio": c.Ratio(c.Usable), "resident_ratio": c.Ratio(c.Resident),
		})
	}
	return map[string]any{
		"requests": len(trace), "asked_blocks": caches[0].Asked, "continued_requests": continued,
		"block_tokens": o.blockTokens, "stay_seconds": o.stay.Seconds(), "results": results,
	}
}

// maxTraceLine bounds a request of a trace: a million tokens in blocks of 16 are 65,536 hashes.
const maxTraceLine = 4 << 20

// openTrace opens a trace's file, or standard input for "-". size is 0 where it is not known.
func (inv *invocation) openTrace(name string) (in io.ReadCloser, size int64, err error) {
	if name == "-" {
		return io.NopCloser(inv.In), 0, nil
	}
	f, err := os.Open(inv.path(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, fail(ExitNotFound, "", "trace %s does not exist", name)
	} else if err != nil {
		return nil, 0, fmt.Errorf("read the trace: %w", err)
	}
	if info, err := f.Stat(); err == nil {
		size = info.Size()
	}
	return f, size, nil
}

func (inv *invocation) readTrace(o replayOptions) (trace []evict.Request, err error) {
	in, size, err := inv.openTrace(o.trace)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	progress := inv.newBar("read", size, "bytes")
	defer progress.end()
	lines, read := bufio.NewScanner(in), int64(0)
	lines.Buffer(nil, maxTraceLine)
	for n := 1; lines.Scan(); n++ {
		read += int64(len(lines.Bytes())) + 1
		progress.at(min(read, size))
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		r, err := evict.ParseRequest(lines.Bytes(), o.blockTokens)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", o.trace, n, err)
		}
		trace = append(trace, r)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the trace %s: %w", o.trace, err)
	}
	if len(trace) == 0 {
		return nil, fmt.Errorf("the trace %s has no requests", o.trace)
	}
	return trace, nil
}
