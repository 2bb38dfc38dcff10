package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"google.golang.org/protobuf/types/known/durationpb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

func keyCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "key", Usage: "make, list and revoke API keys",
		Subcommands: []*cli.Command{
			{
				Name: "create", Usage: "make a key; its secret is shown this once", ArgsUsage: "NAME",
				Flags: []cli.Flag{
					&cli.StringSliceFlag{Name: "models", Usage: "only these models (globs); may be repeated"},
					&cli.StringFlag{Name: "tenant", Usage: "whose KV cache it shares; default: nobody else's"},
					&cli.UintFlag{Name: "rpm", Usage: "requests per minute; 0 = no limit"},
					&cli.Uint64Flag{Name: "tpm", Usage: "tokens per minute; 0 = no limit"},
					&cli.UintFlag{Name: "concurrency", Usage: "requests at one time; 0 = no limit"},
					&cli.DurationFlag{Name: "ttl", Usage: "the key ends after this long; 0 = never"},
					&cli.StringFlag{Name: "out", Usage: "write the secret into this new file (0600) instead of printing it"},
				},
				Action: action(std, parseKeyCreate, runKeyCreate),
			},
			{Name: "list", Usage: "list keys, never their secrets", Action: controlAction(std, nothing, runKeyList)},
			{
				Name: "revoke", Usage: "end a key now", ArgsUsage: "KEY",
				Action: controlAction(std, func(c *cli.Context) (string, error) { return one(c, "a key's id or name") }, runKeyRevoke),
			},
		},
	}
}

type keyCreateOptions struct {
	req *apiv1.CreateKeyRequest
	out string
}

func parseKeyCreate(c *cli.Context) (keyCreateOptions, error) {
	name, err := one(c, "a name")
	req := &apiv1.CreateKeyRequest{
		Name: name, Tenant: c.String("tenant"), Models: c.StringSlice("models"), RequestsPerMinute: uint32(c.Uint("rpm")),
		TokensPerMinute: c.Uint64("tpm"), Concurrency: uint32(c.Uint("concurrency")),
	}
	if ttl := c.Duration("ttl"); ttl > 0 {
		req.Ttl = durationpb.New(ttl)
	}
	return keyCreateOptions{req, c.String("out")}, err
}

func runKeyCreate(ctx context.Context, inv *invocation, o keyCreateOptions) error {
	file, err := newSecretFile(inv, o.out) // before there is a secret that would be lost
	if err != nil {
		return err
	}
	control, done, err := inv.control()
	if err != nil {
		return errors.Join(err, file.drop())
	}
	defer done()
	resp, err := control.CreateKey(ctx, o.req)
	if err != nil {
		return errors.Join(err, file.drop())
	}
	if file != nil {
		if err := file.write(resp.Secret); err != nil {
			return err
		}
		resp.Secret = ""
	}
	if inv.json() {
		return inv.printMessage("key", resp)
	}
	if o.out != "" {
		inv.say("key %s for %s; its secret is in %s, and nowhere else", resp.Key.Id, resp.Key.Name, o.out)
		return nil
	}
	inv.say("key %s for %s; keep the secret, it is not shown again", resp.Key.Id, resp.Key.Name)
	fmt.Fprintln(inv.Out, resp.Secret)
	return nil
}

func runKeyList(ctx context.Context, inv *invocation, control apiv1.ControlServiceClient, _ struct{}) error {
	resp, err := control.ListKeys(ctx, &apiv1.ListKeysRequest{})
	if err != nil {
		return err
	}
	if inv.json() {
		return inv.printMessage("keys", resp)
	}
	var rows [][]string
	for _, k := range resp.Keys {
		rows = append(rows, []string{
			k.Id, k.Name, orDash(k.Tenant), limits(k), expires(k, inv.now()), lastUsed(k, inv.now()), orDefault(strings.Join(k.Models, ","), "all"),
		})
	}
	return inv.table([]string{"ID", "NAME", "TENANT", "LIMITS", "EXPIRES", "LAST USED", "MODELS"}, rows)
}

// limits is what a key may take: "100 req/min, 2 at once".
func limits(k *apiv1.Key) string {
	var out []string
	add := func(n uint64, unit string) {
		if n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n, unit))
		}
	}
	add(uint64(k.RequestsPerMinute), "req/min")
	add(k.TokensPerMinute, "tok/min")
	add(uint64(k.Concurrency), "at once")
	return orDefault(strings.Join(out, ", "), "none")
}

func expires(k *apiv1.Key, now time.Time) string {
	switch {
	case k.ExpiresAt == nil:
		return "never"
	case !k.ExpiresAt.AsTime().After(now):
		return "expired"
	}
	return "in " + ageText(k.ExpiresAt.AsTime().Sub(now))
}

func lastUsed(k *apiv1.Key, now time.Time) string {
	if k.LastUsedAt == nil {
		return "never"
	}
	return ageText(now.Sub(k.LastUsedAt.AsTime())) + " ago"
}

func runKeyRevoke(ctx context.Context, inv *invocation, control apiv1.ControlServiceClient, id string) error {
	resp, err := control.RevokeKey(ctx, &apiv1.RevokeKeyRequest{Id: id})
	if err != nil {
		return err
	}
	if inv.json() {
		return inv.printMessage("key_revoke", resp)
	}
	fmt.Fprintln(inv.Out, resp.Id)
	return nil
}

// secretFile is a new file, 0600, that is to hold a secret. A nil one stands for none.
type secretFile struct{ f *os.File }

func newSecretFile(inv *invocation, path string) (*secretFile, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.OpenFile(inv.path(path), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make a file for the key: %w", err)
	}
	return &secretFile{f}, nil
}

func (s *secretFile) write(secret string) error {
	_, err := s.f.WriteString(secret + "\n")
	if err = errors.Join(err, s.f.Close()); err != nil {
		return fmt.Errorf("write the key: %w; revoke the key and make another one", err)
	}
	return nil
}

// drop removes the file again.
func (s *secretFile) drop() error {
	if s == nil {
		return nil
	}
	return errors.Join(s.f.Close(), os.Remove(s.f.Name()))
}
