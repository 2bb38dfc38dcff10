package cli

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

func statusCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "status", Aliases: []string{"ps"}, Usage: "show deployments and replicas, and why they are not ready",
		ArgsUsage: "[DEPLOYMENT]",
		Flags:     []cli.Flag{&cli.BoolFlag{Name: "wide", Usage: "launch, job, address, KV cache and open ports too"}},
		Action:    controlAction(std, parseStatus, runStatus),
	}
}

type statusOptions struct {
	deployment string
	wide       bool
}

func parseStatus(c *cli.Context) (statusOptions, error) {
	name, err := optional(c)
	return statusOptions{name, c.Bool("wide")}, err
}

func runStatus(ctx context.Context, inv *invocation, control apiv1.ControlServiceClient, o statusOptions) error {
	st, err := control.Status(ctx, &apiv1.StatusRequest{Deployment: o.deployment})
	if err != nil {
		return err
	}
	if inv.json() {
		return inv.printMessage("status", st)
	}
	return printStatus(inv, st, o.wide)
}

func printStatus(inv *invocation, st *apiv1.StatusResponse, wide bool) error {
	if len(st.Deployments) == 0 {
		inv.say("no deployments; start one with: penstock run FILE")
	}
	for i, d := range st.Deployments {
		if i > 0 {
			fmt.Fprintln(inv.Out)
		}
		fmt.Fprintf(inv.Out, "%s  %s  revision %d  %s on %s  model %s\n",
			d.Name, inv.paint(d.State), d.Revision, d.Engine, d.Cluster, d.Model)
		if d.Reason != "" {
			fmt.Fprintf(inv.Out, "  %s\n", printable(d.Reason))
		}
		for _, r := range d.Roles {
			if d.State != "stopped" {
				fmt.Fprintf(inv.Out, "  %s: %s\n", r.Role, roleText(r))
			}
		}
		if err := printReplicas(inv, d.Replicas, st.At.AsTime(), wide); err != nil {
			return err
		}
	}
	if wide {
		printGateways(inv, st)
	}
	for _, w := range st.Warnings {
		inv.say("warning: %s", w)
	}
	return nil
}

func printGateways(inv *invocation, st *apiv1.StatusResponse) {
	if len(st.Deployments) > 0 && len(st.Gateways) > 0 {
		fmt.Fprintln(inv.Out)
	}
	for _, g := range st.Gateways {
		fmt.Fprintf(inv.Out, "gateway %s  %s  seen %s ago\n", g.Name, orDash(g.Url), ageText(st.At.AsTime().Sub(g.SeenAt.AsTime())))
	}
}

func roleText(r *apiv1.RoleStatus) string {
	parts := []string{fmt.Sprintf("%d of %d ready", r.Ready, r.Wanted)}
	if r.Wanted == 0 {
		parts[0] = "none wanted"
	}
	if r.Starting > 0 {
		parts = append(parts, fmt.Sprintf("%d starting", r.Starting))
	}
	if r.Draining > 0 {
		parts = append(parts, fmt.Sprintf("%d draining", r.Draining))
	}
	if r.Unknown > 0 {
		parts = append(parts, fmt.Sprintf("%d unknown", r.Unknown))
	}
	if r.Scaled {
		parts = append(parts, "count set by a scale, not by the file")
	}
	return strings.Join(parts, ", ")
}

func printReplicas(inv *invocation, reps []*apiv1.ReplicaStatus, now time.Time, wide bool) error {
	if len(reps) == 0 {
		return nil
	}
	head := []string{"  REPLICA", "STATE", "FOR", "NODE", "RUN/WAIT", "KV", "REV", "REASON"}
	if wide {
		head = append(head, "LAUNCH", "JOB", "EPOCH", "ADDRESS", "ENDS", "SEEN")
	}
	var rows [][]string
	for _, r := range reps {
		row := []string{
			"  " + r.Name, inv.paint(r.State), since(r, now), orDash(strings.Join(r.Nodes, ",")), loadText(r.Load),
			percent(r.Kv.GetUsage(), r.Kv != nil && r.Kv.Usage != nil), fmt.Sprint(r.Revision), orDash(reasonText(r, now)),
		}
		if wide {
			row = append(row, r.Launch, orDash(r.Job), epochText(r.Epoch), orDash(r.Address), ends(r, now), seen(r, now))
		}
		rows = append(rows, row)
	}
	if err := inv.table(head, rows); err != nil {
		return err
	}
	printHandovers(inv, reps, now)
	printLastLines(inv, reps, now)
	if wide {
		printPorts(inv, reps)
	}
	return nil
}

// lastLinesShown is how much of an engine's last words is shown.
const lastLinesShown = 5

// printLastLines shows an engine's last words where a replica failed or waits to be started again. One that is on its way
// again has nothing to explain.
func printLastLines(inv *invocation, reps []*apiv1.ReplicaStatus, now time.Time) {
	for _, r := range reps {
		if len(r.LastLines) == 0 || r.State != "failed" && !retries(r, now) {
			continue
		}
		fmt.Fprintf(inv.Out, "  last lines of %s:\n", r.Name)
		for _, l := range r.LastLines[max(0, len(r.LastLines)-lastLinesShown):] {
			fmt.Fprintf(inv.Out, "    | %s\n", printable(l))
		}
	}
}

func retries(r *apiv1.ReplicaStatus, now time.Time) bool {
	return r.RetryAt != nil && r.RetryAt.AsTime().After(now)
}

func printPorts(inv *invocation, reps []*apiv1.ReplicaStatus) {
	for _, r := range reps {
		ports := r.Ports
		sort.Slice(ports, func(i, j int) bool { return ports[i].Address < ports[j].Address })
		for _, p := range ports {
			fmt.Fprintf(inv.Out, "  %s listens on %s for %s, protected by: %s\n", r.Name, p.Address, p.Purpose, p.Protection)
		}
	}
}

func epochText(epoch uint64) string {
	if epoch == 0 {
		return "-"
	}
	return fmt.Sprint(epoch)
}

func since(r *apiv1.ReplicaStatus, now time.Time) string {
	if r.Since == nil {
		return "-"
	}
	return ageText(now.Sub(r.Since.AsTime()))
}

func ends(r *apiv1.ReplicaStatus, now time.Time) string {
	if r.EndsAt == nil {
		return "-"
	}
	return "in " + ageText(r.EndsAt.AsTime().Sub(now))
}

func seen(r *apiv1.ReplicaStatus, now time.Time) string {
	if r.SeenAt == nil {
		return "never"
	}
	return ageText(now.Sub(r.SeenAt.AsTime())) + " ago"
}

func loadText(l *apiv1.EngineLoad) string {
	if l == nil {
		return "-"
	}
	return orUnknown(l.Running, "%d") + "/" + orUnknown(l.Waiting, "%d")
}

func percent(v float64, known bool) string {
	if !known {
		return "-"
	}
	return fmt.Sprintf("%.0f%%", 100*v)
}

// reasonText is why a replica is not ready, with progress where there is any.
func reasonText(r *apiv1.ReplicaStatus, now time.Time) string {
	text := loadingOr(r, r.Reason)
	if retries(r, now) {
		text, _, _ = strings.Cut(text, "; starts again in ") // as it was when the agent said it
		text += "; starts again in " + ageText(r.RetryAt.AsTime().Sub(now))
	}
	return strings.TrimSpace(printable(text))
}

// loadingOr is a loading replica's progress where it is known.
func loadingOr(r *apiv1.ReplicaStatus, otherwise string) string {
	if p := progressText(r.Loading); p != "" && r.State == "loading" {
		return p
	}
	return otherwise
}

// leastProgress is what an engine reads for its own start, which says nothing of weights.
const leastProgress = 1 << 20

// progressText is "1.2 GiB of 16 GiB, 310 MiB/s, 48s left", as far as it is known.
func progressText(p *apiv1.Progress) string {
	if p == nil || (p.BytesDone < leastProgress && p.BytesTotal == 0) {
		return ""
	}
	text := bytesText(p.BytesDone)
	if p.BytesTotal > 0 {
		text += " of " + bytesText(p.BytesTotal)
	}
	if p.BytesPerSecond > 0 {
		text += ", " + bytesText(uint64(p.BytesPerSecond)) + "/s"
	}
	if p.Remaining != nil {
		text += ", " + ageText(p.Remaining.AsDuration()) + " left"
	}
	return text
}

// paint colours a state on a terminal.
func (inv *invocation) paint(state string) string {
	if !inv.colour() {
		return state
	}
	code := map[string]string{
		"ready": "32", "up": "32", "failed": "31", "down": "31", "degraded": "33", "draining": "33", "stopping": "33", "unknown": "35",
		"stopped": "2", "ended": "2",
	}[state]
	if code == "" {
		code = "36"
	}
	return "\x1b[" + code + "m" + state + "\x1b[0m"
}

func (inv *invocation) colour() bool {
	return !inv.set.is("noColor") && inv.color(inv.OutTTY)
}
