package cli

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/kvstore"
)

func kvGetCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "get", Usage: "copy one KV block, checked, into a file", ArgsUsage: "SPACE/NAME/PART",
		Description: "KV is what users have written: the block goes into a new file that only you can read, or with --out - into a pipe, and\n" +
			"never to a terminal. The name may be shortened as `penstock kv ls` has it. One that blocks of several spaces share is\n" +
			"refused: another space may be another tenant's. Folders and buckets of other users are not opened.",
		Flags:  append([]cli.Flag{&cli.StringFlag{Name: "out", Aliases: []string{"o"}, Usage: "a file that does not exist yet"}}, kvPlaceFlags()...),
		Action: action(std, parseKVGet, runKVGet),
	}
}

type kvGetOptions struct {
	place kvPlace
	want  keyPrefix
	out   string
}

// keyPrefix is a block's name that may be shortened.
type keyPrefix struct {
	text, space, name string
	part              uint16
}

// parseKey reads SPACE/NAME/PART.
func parseKey(text string) (p keyPrefix, err error) {
	fields := strings.Split(text, "/")
	if len(fields) != 3 {
		return p, usageError("%q is no block's name: that is SPACE/NAME/PART, as penstock kv ls prints it", text)
	}
	for _, f := range fields[:2] {
		if _, err := hex.DecodeString(f + strings.Repeat("0", len(f)%2)); err != nil || f == "" || f != strings.ToLower(f) {
			return p, usageError("%q is no block's name: %q is not hexadecimal", text, f)
		}
	}
	part, err := strconv.ParseUint(fields[2], 10, 16)
	if err != nil {
		return p, usageError("%q is no block's name: %q is no part", text, fields[2])
	}
	return keyPrefix{text, fields[0], fields[1], uint16(part)}, nil
}

func (p keyPrefix) matches(k kvstore.Key) bool {
	return k.Part == p.part && strings.HasPrefix(hex.EncodeToString(k.Space[:]), p.space) && strings.HasPrefix(hex.EncodeToString(k.Name[:]), p.name)
}

func parseKVGet(c *cli.Context) (o kvGetOptions, err error) {
	name, err := one(c, "a block's name")
	if err != nil {
		return o, err
	}
	if o.want, err = parseKey(name); err != nil {
		return o, err
	}
	if o.out = c.String("out"); o.out == "" {
		return o, usageError("penstock kv get needs --out FILE")
	}
	o.place, err = offlinePlace(c)
	return o, err
}

func runKVGet(ctx context.Context, inv *invocation, o kvGetOptions) error {
	if o.out == "-" && inv.OutTTY {
		return usageError("KV blocks are not printed on a terminal: --out FILE, or a pipe")
	}
	if o.out == "-" && inv.json() {
		return usageError("--json prints a document where --out - prints the block: name a file")
	}
	return o.place.with(ctx, inv, kvBounds{}, func(open []openPlace) error {
		from, key, err := findBlock(ctx, open, o.want)
		if err != nil {
			return err
		}
		b, err := from.Get(ctx, key)
		if errors.Is(err, kvstore.ErrNotFound) && !errors.Is(err, kvstore.ErrCorrupt) {
			return fail(ExitNotFound, "", "block %s is there no more", o.want.text)
		} else if err != nil {
			return err
		}
		defer b.Release()
		if err := inv.writeBlock(o.out, b); err != nil {
			return err
		}
		switch {
		case inv.json():
			return inv.printJSON("kv_get", map[string]any{"key": keyText(key), "bytes": b.Len(), "crc32c": b.Sum(), "file": inv.path(o.out)})
		case o.out != "-":
			inv.say("%s of block %s are in %s", bytesText(uint64(b.Len())), key, o.out)
		}
		return nil
	})
}

// findBlock finds the only block of a name that may be shortened.
func findBlock(ctx context.Context, open []openPlace, want keyPrefix) (from openPlace, key kvstore.Key, err error) {
	found := map[kvstore.Key]openPlace{}
	enough := errors.New("enough")
	for _, s := range open {
		err := s.List(ctx, func(k kvstore.Key, _ kvstore.Info) error {
			if want.matches(k) {
				found[k] = s
			}
			if len(found) > 1 {
				return enough
			}
			return nil
		})
		if err != nil && !errors.Is(err, enough) {
			return from, key, err
		}
	}
	if len(found) == 0 {
		return from, key, fail(ExitNotFound, "penstock kv ls lists the blocks", "there is no block %s", want.text)
	}
	spaces := map[kvstore.Space]bool{}
	for k, s := range found {
		from, key = s, k
		spaces[k.Space] = true
	}
	switch {
	case len(spaces) > 1:
		return from, key, usageError("%s names blocks of several spaces, which may be several tenants': give more of SPACE", want.text)
	case len(found) > 1:
		return from, key, usageError("%s names several blocks: give more of NAME", want.text)
	}
	return from, key, nil
}

// writeBlock writes into a file that nobody else can read and that was not there.
func (inv *invocation) writeBlock(out string, b *kvstore.Block) error {
	if out == "-" {
		_, err := inv.Out.Write(b.Bytes())
		return err
	}
	f, err := os.OpenFile(inv.path(out), os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fail(ExitError, "name a file that does not exist yet", "%s is there already", out)
	} else if err != nil {
		return fmt.Errorf("write the block: %w", err)
	}
	n, err := f.Write(b.Bytes())
	if err == nil && n < b.Len() {
		err = io.ErrShortWrite
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write the block: %w", err), os.Remove(inv.path(out)))
	}
	return nil
}
