package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

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
				case resp.Url == "":
					return fail(ExitNotFound, "start one with: penstock gateway", "no gateway runs")
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
