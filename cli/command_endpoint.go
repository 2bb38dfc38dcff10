package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"google.golang.org/protobuf/types/known/durationpb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

func endpointCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "endpoint", Usage: "print the gateway's URL and how to use it",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "url", Usage: "print the URL alone"}},
		Action: controlAction(std, parseEndpoint,
			func(ctx context.Context, inv *invocation, control apiv1.ControlServiceClient, o endpointOptions) error {
				resp, err := control.Endpoint(ctx, &apiv1.EndpointRequest{})
				if err != nil {
					return err
				}
				switch {
				case inv.json():
					return inv.printMessage("endpoint", resp)
				case o.url:
					fmt.Fprintln(inv.Out, resp.Url)
				default:
					printEndpoint(inv, resp)
				}
				return nil
			}),
	}
}

type endpointOptions struct{ url bool }

func parseEndpoint(c *cli.Context) (endpointOptions, error) {
	_, err := nothing(c)
	return endpointOptions{c.Bool("url")}, err
}

func printEndpoint(inv *invocation, e *apiv1.EndpointResponse) {
	fmt.Fprintf(inv.Out, "export OPENAI_BASE_URL=%s\n", e.Url)
	fmt.Fprintln(inv.Out, "export OPENAI_API_KEY=...   # make one: penstock key create NAME")
	ca := ""
	if e.CaFile != "" {
		fmt.Fprintf(inv.Out, "export SSL_CERT_FILE=%s\n", e.CaFile)
		ca = "--cacert " + e.CaFile + " "
	}
	model := "MODEL"
	if len(e.Models) > 0 {
		model = e.Models[0]
	}
	fmt.Fprintf(inv.Out, "# curl %s-N $OPENAI_BASE_URL/chat/completions -H \"Authorization: Bearer $OPENAI_API_KEY\" \\\n", ca)
	fmt.Fprintf(inv.Out, "#   -H 'Content-Type: application/json' -d '{\"model\":\"%s\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]}'\n", model)
	if len(e.Models) > 0 {
		fmt.Fprintf(inv.Out, "# models: %s\n", strings.Join(e.Models, ", "))
	}
}

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
				Action: controlAction(std, parseKeyCreate, runKeyCreate),
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

func runKeyCreate(ctx context.Context, inv *invocation, control apiv1.ControlServiceClient, o keyCreateOptions) error {
	resp, err := control.CreateKey(ctx, o.req)
	if err != nil {
		return err
	}
	if o.out != "" {
		if err := writeSecret(inv, o.out, resp.Secret); err != nil {
			return err
		}
		resp.Secret = ""
	}
	if inv.json() {
		return inv.printMessage("key", resp)
	}
	inv.say("key %s for %s; keep the secret, it is not shown again", resp.Key.Id, resp.Key.Name)
	if o.out == "" {
		fmt.Fprintln(inv.Out, resp.Secret)
	}
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
		expires, used := "never", "never"
		if k.ExpiresAt != nil {
			expires = k.ExpiresAt.AsTime().Local().Format(time.DateTime)
		}
		if k.LastUsedAt != nil {
			used = k.LastUsedAt.AsTime().Local().Format(time.DateTime)
		}
		rows = append(rows, []string{
			k.Id, k.Name, orDash(k.Tenant), limit(uint64(k.RequestsPerMinute)), limit(k.TokensPerMinute), limit(uint64(k.Concurrency)),
			expires, used, orDash(strings.Join(k.Models, ",")),
		})
	}
	return inv.table([]string{"ID", "NAME", "TENANT", "REQ/MIN", "TOK/MIN", "AT ONCE", "EXPIRES", "LAST USED", "MODELS"}, rows)
}

func limit(n uint64) string {
	if n == 0 {
		return "no limit"
	}
	return fmt.Sprint(n)
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
