package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/disk"
	"github.com/penstock/penstock/kvstore/keyring"
	"github.com/penstock/penstock/kvstore/object"
)

// kvPlace names a folder or a bucket of KV blocks, for commands that need no controller. Zero = none is named.
type kvPlace struct {
	disk, object                            string
	endpoint, credentials, profile, ca, key string
}

func kvPlaceFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "disk", Usage: "a disk tier's folder, or the folder above several, that no process has open"},
		&cli.StringFlag{Name: "object", Usage: "an object tier: s3://BUCKET/PREFIX or file:///FOLDER"},
		&cli.StringFlag{Name: "endpoint", Usage: "URL of the S3 server; none = AWS"},
		&cli.StringFlag{Name: "credentials-file", Usage: "credentials of AWS's form, closed to others; none = environment, ~/.aws, the machine's role"},
		&cli.StringFlag{Name: "profile", Usage: "profile in the credentials"},
		&cli.StringFlag{Name: "ca-file", Usage: "PEM file of the S3 server's CA"},
		&cli.StringFlag{Name: "key-file", Usage: "key file of blocks that are encrypted"},
	}
}

func parseKVPlace(c *cli.Context) (p kvPlace, err error) {
	p = kvPlace{
		disk: c.String("disk"), object: c.String("object"), endpoint: c.String("endpoint"), credentials: c.String("credentials-file"),
		profile: c.String("profile"), ca: c.String("ca-file"), key: c.String("key-file"),
	}
	if p.disk != "" && p.object != "" {
		return p, usageError("penstock kv %s works on --disk or on --object, not on both at one time", c.Command.Name)
	}
	if p.object == "" && (p.endpoint != "" || p.credentials != "" || p.ca != "" || p.profile != "") {
		return p, usageError("--endpoint, --credentials-file, --profile and --ca-file belong to --object s3://BUCKET/PREFIX")
	}
	return p, nil
}

// named says whether any place is.
func (p kvPlace) named() bool { return p.disk != "" || p.object != "" }

// offline is a parser for commands that work on a place alone.
func offlinePlace(c *cli.Context) (kvPlace, error) {
	p, err := parseKVPlace(c)
	if err == nil && !p.named() {
		err = usageError("penstock kv %s needs --disk DIR or --object URL", c.Command.Name)
	}
	return p, err
}

// kvStore is what the commands ask of a store beside the contract.
type kvStore interface {
	kvstore.Store
	List(ctx context.Context, each func(kvstore.Key, kvstore.Info) error) error
}

// openPlace is one store that is open.
type openPlace struct {
	kvStore
	name   string // for people
	disk   *disk.Store
	object *object.Store
}

// openTimeout bounds how long a store is looked through before a command goes on.
const openTimeout = 10 * time.Minute

// with opens what the place names, calls do with all of it, and closes it. Budgets of 0 are none: nothing is forgotten then.
func (p kvPlace) with(ctx context.Context, inv *invocation, o kvBounds, do func([]openPlace) error) (err error) {
	var keys *keyring.Ring
	if p.key != "" {
		if keys, err = keyring.Open(inv.path(p.key)); err != nil {
			return err
		}
	}
	if p.object != "" {
		return p.withObject(ctx, inv, o, keys, do)
	}
	dirs, err := diskFolders(inv.path(p.disk))
	if err != nil {
		return err
	}
	var open []openPlace
	defer func() {
		for _, s := range open {
			err = errors.Join(err, s.disk.Close())
		}
	}()
	for _, dir := range dirs {
		s, err := openDiskPlace(ctx, dir, o, keys)
		if err != nil {
			return err
		}
		open = append(open, openPlace{s, dir, s, nil})
	}
	return do(open)
}

// kvBounds bound what a store keeps.
type kvBounds struct {
	budget int64
	maxAge time.Duration
}

func openDiskPlace(ctx context.Context, dir string, o kvBounds, keys *keyring.Ring) (*disk.Store, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	budget := o.budget
	if budget == 0 {
		budget = math.MaxInt64
	}
	s, err := disk.Open(ctx, disk.Options{Dir: dir, Budget: budget, Keys: keys, Timeout: time.Minute, Log: zerolog.Nop()})
	if errors.Is(err, disk.ErrInUse) {
		return nil, fail(ExitError, "ask the replica that has it instead: penstock kv stat, penstock kv ls DEPLOYMENT", "open %s: %w", dir, err)
	}
	return s, err
}

// diskFolders are the folders of stores at or just below a path.
func diskFolders(path string) (dirs []string, err error) {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fail(ExitNotFound, "", "%s does not exist", path)
	} else if err != nil {
		return nil, fmt.Errorf("look for KV blocks: %w", err)
	}
	if holdsSegments(entries) {
		return []string{path}, nil
	}
	for _, e := range entries {
		below := filepath.Join(path, e.Name())
		if !e.IsDir() {
			continue
		}
		if inside, err := os.ReadDir(below); err == nil && holdsSegments(inside) {
			dirs = append(dirs, below)
		}
	}
	if len(dirs) == 0 {
		return nil, fail(ExitNotFound, "", "no KV blocks lie in %s, nor in the folders in it", path)
	}
	return dirs, nil
}

func holdsSegments(entries []os.DirEntry) bool {
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		return strings.HasPrefix(e.Name(), "seg-") && strings.HasSuffix(e.Name(), ".kv")
	})
}

func (p kvPlace) withObject(ctx context.Context, inv *invocation, o kvBounds, keys *keyring.Ring, do func([]openPlace) error) error {
	if dir, ok := strings.CutPrefix(p.object, "file://"); ok {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return fail(ExitNotFound, "", "%s does not exist", dir)
		}
	}
	opts := p.objectOptions(inv, keys)
	opts.Budget, opts.MaxAge = o.budget, o.maxAge
	s, err := object.Open(ctx, opts)
	if err != nil {
		return err
	}
	if err := s.Refresh(ctx); err != nil { // Open takes a bucket that does not answer for one that will
		return errors.Join(err, s.Close(context.WithoutCancel(ctx)))
	}
	return errors.Join(do([]openPlace{{s, p.object, nil, s}}), s.Close(context.WithoutCancel(ctx)))
}

// objectOptions are for commands: they wait longer than requests of an engine may.
func (p kvPlace) objectOptions(inv *invocation, keys *keyring.Ring) object.Options {
	endpoint := p.endpoint
	if endpoint != "" && !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	path := func(file string) string {
		if file == "" {
			return ""
		}
		return inv.path(file)
	}
	return object.Options{
		URL: p.object, Endpoint: endpoint, PathStyle: endpoint != "", CredentialsFile: path(p.credentials), Profile: p.profile,
		CAFile: path(p.ca), Keys: keys, Timeout: 30 * time.Second, Log: zerolog.Nop(),
	}
}
