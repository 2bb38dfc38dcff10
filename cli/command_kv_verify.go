package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/penstock/penstock/kvstore"
)

func kvVerifyCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "verify", Usage: "read every KV block of a folder or a bucket and check it",
		Description: "What fails its check is forgotten, as at any other read, so that a second run finds nothing. Exit status 1 says that\n" +
			"something was corrupt, or could not be read.",
		Flags:  kvPlaceFlags(),
		Action: action(std, parseKVVerify, runKVVerify),
	}
}

func parseKVVerify(c *cli.Context) (kvPlace, error) {
	if _, err := nothing(c); err != nil {
		return kvPlace{}, err
	}
	return offlinePlace(c)
}

// verified is what came of it.
type verified struct {
	blocks, bytes       int64
	corrupt, unreadable []string // blocks
	took                time.Duration
}

// verifyReads is how many reads are under way at one time.
const verifyReads = 16

func runKVVerify(ctx context.Context, inv *invocation, p kvPlace) error {
	var v verified
	damaged := int64(0)
	err := p.with(ctx, inv, kvBounds{}, func(open []openPlace) error {
		for _, s := range open {
			damaged += s.Stats().Corrupt // found by opening: segments and their marks
			if err := v.check(ctx, inv, s); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.Sort(v.corrupt)
	slices.Sort(v.unreadable)
	if inv.json() {
		err = inv.printJSON("kv_verify", map[string]any{
			"blocks": v.blocks, "bytes": v.bytes, "seconds": v.took.Seconds(), "corrupt": notNil(v.corrupt), "unreadable": notNil(v.unreadable),
			"damaged_segments": damaged,
		})
	} else {
		err = v.print(inv, damaged)
	}
	bad := len(v.corrupt)+len(v.unreadable) > 0 || damaged > 0
	switch {
	case err == nil && bad && inv.json():
		return exitWith(ExitError) // the document says why
	case err == nil && bad:
		return fail(ExitError, "", "%d blocks are corrupt, %d cannot be read; %d damaged segments", len(v.corrupt), len(v.unreadable), damaged)
	}
	return err
}

func notNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func (v *verified) print(inv *invocation, damaged int64) error {
	for _, b := range v.corrupt {
		fmt.Fprintf(inv.Out, "corrupt     %s\n", b)
	}
	for _, b := range v.unreadable {
		fmt.Fprintf(inv.Out, "unreadable  %s\n", b)
	}
	_, err := fmt.Fprintf(inv.Out, "%d blocks, %s, read in %s (%s/s): %d corrupt, %d unreadable\n", v.blocks, bytesText(uint64(v.bytes)),
		v.took.Round(time.Millisecond), rateText(v.bytes, v.took), len(v.corrupt), len(v.unreadable))
	if damaged > 0 && err == nil {
		_, err = fmt.Fprintf(inv.Out, "%d segments, or pages of their marks, are damaged\n", damaged)
	}
	return err
}

// rateText is bytes in one second as people say it.
func rateText(bytes int64, took time.Duration) string {
	if took <= 0 {
		return "-"
	}
	return bytesText(uint64(float64(bytes) / took.Seconds()))
}

// check reads all of one store.
func (v *verified) check(ctx context.Context, inv *invocation, s openPlace) error {
	var keys []kvstore.Key
	var total int64
	err := s.List(ctx, func(k kvstore.Key, info kvstore.Info) error {
		keys, total = append(keys, k), total+info.Size
		return nil
	})
	if err != nil {
		return err
	}
	progress := inv.newBar("verify", total, "bytes")
	defer progress.end()
	begun := inv.now()
	var mu sync.Mutex // of v and progress
	var readers sync.WaitGroup
	next := make(chan kvstore.Key)
	for range verifyReads {
		readers.Go(func() {
			for k := range next {
				b, err := s.Get(ctx, k)
				mu.Lock()
				v.note(k, b, err)
				progress.at(min(v.bytes, total))
				mu.Unlock()
			}
		})
	}
	for _, k := range keys {
		if ctx.Err() != nil {
			break
		}
		next <- k
	}
	close(next)
	readers.Wait()
	v.took += inv.now().Sub(begun)
	return ctx.Err()
}

func (v *verified) note(k kvstore.Key, b *kvstore.Block, err error) {
	switch {
	case err == nil:
		v.blocks++
		v.bytes += int64(b.Len())
		b.Release()
	case errors.Is(err, kvstore.ErrCorrupt):
		v.corrupt = append(v.corrupt, keyText(k))
	case errors.Is(err, kvstore.ErrNotFound): // with another part that was corrupt, or removed by somebody meanwhile
	default:
		v.unreadable = append(v.unreadable, keyText(k)+": "+err.Error())
	}
}
