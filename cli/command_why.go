package cli

import (
	"context"
	"fmt"
	"sort"
	"strings"

	"github.com/urfave/cli/v2"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

func whyCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "why", Usage: "explain where a request went, in milliseconds", ArgsUsage: "[REQUEST]",
		Description: "REQUEST is the X-Request-Id of an answer, or its beginning; without one, the latest finished request.",
		Action: controlAction(std, func(c *cli.Context) (string, error) { return optional(c) },
			func(ctx context.Context, inv *invocation, control apiv1.ControlServiceClient, id string) error {
				resp, err := control.Why(ctx, &apiv1.WhyRequest{Id: id})
				if err != nil {
					return err
				}
				if inv.json() {
					return inv.printMessage("why", resp)
				}
				printWhy(inv, resp.Record)
				return nil
			}),
	}
}

func printWhy(inv *invocation, r *apiv1.RequestRecord) {
	fmt.Fprintf(inv.Out, "request %s  %s  model %s  key %s\n", r.Id, r.Path, orDash(r.Model), orDash(r.KeyId))
	fmt.Fprintf(inv.Out, "  %s (HTTP %d)%s\n", r.Outcome, r.Status, suffix(": ", r.Error))
	var facts []string
	if r.Ttft != nil {
		facts = append(facts, fmt.Sprintf("first token after %.0f ms", r.Ttft.AsDuration().Seconds()*1000))
	}
	if r.Total != nil {
		facts = append(facts, fmt.Sprintf("%.0f ms in all", r.Total.AsDuration().Seconds()*1000))
	}
	facts = append(facts, fmt.Sprintf("%d prompt tokens (%d cached), %d answered", r.PromptTokens, r.CachedTokens, r.CompletionTokens))
	fmt.Fprintf(inv.Out, "  %s\n", strings.Join(facts, ", "))
	if r.PrefixKeys != "" {
		fmt.Fprintf(inv.Out, "  prompt looked up by %s, found in %.1f ms\n", keysText(r.PrefixKeys), r.PrefixMs)
	}
	for i, a := range r.Attempts {
		fmt.Fprintf(inv.Out, "  %d. %s: %s\n", i+1, a.Replica, a.Reason)
		if a.PredictedMs > 0 {
			fmt.Fprintf(inv.Out, "     predicted %.1f ms%s\n", a.PredictedMs, suffix(" = ", partsText(a.PartsMs)))
		}
		if a.FirstTokenMs != nil {
			fmt.Fprintf(inv.Out, "     first token after %.1f ms, expected %.1f ms\n", *a.FirstTokenMs, a.ExpectedMs)
		}
		if a.Tokens > 0 {
			fmt.Fprintf(inv.Out, "     %s came from it\n", tokensText(a.Tokens))
		}
		if a.End != "" {
			fmt.Fprintf(inv.Out, "     ended: %s\n", a.End)
		}
		for _, u := range a.RunnersUp {
			fmt.Fprintf(inv.Out, "     instead of %s: %.1f ms\n", u.Replica, u.PredictedMs)
		}
	}
}

// keysText says what a kind of keys is.
func keysText(kind string) string {
	switch kind {
	case "exact":
		return "its tokens"
	case "conversation":
		return "the tokens of an earlier turn, since its own did not come in time"
	case "text":
		return "chunks of its text, since no tokens are known"
	}
	return kind
}

func tokensText(n uint64) string {
	if n == 1 {
		return "1 token"
	}
	return fmt.Sprintf("%d tokens", n)
}

func suffix(sep, s string) string {
	if s == "" {
		return ""
	}
	return sep + s
}

func partsText(parts map[string]float64) string {
	var names []string
	for n, ms := range parts {
		if ms >= 0.05 { // else it would show as 0.0
			names = append(names, n)
		}
	}
	sort.Strings(names)
	for i, n := range names {
		names[i] = fmt.Sprintf("%s %.1f", n, parts[n])
	}
	return strings.Join(names, " + ")
}
