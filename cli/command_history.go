package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/slurm"
)

func historyCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "history", Usage: "show how launches have ended", ArgsUsage: "[DEPLOYMENT]",
		Description: "From Slurm's accounting where there is one, and from what the controller remembers; each line says from which.",
		Flags:       []cli.Flag{&cli.DurationFlag{Name: "since", Usage: "how far back", Value: 7 * 24 * time.Hour}},
		Action:      action(std, parseHistory, runHistory),
	}
}

type historyOptions struct {
	deployment string
	since      time.Duration
}

func parseHistory(c *cli.Context) (historyOptions, error) {
	o := historyOptions{since: c.Duration("since")}
	switch {
	case c.Args().Len() > 1:
		return o, usageError("penstock history takes one deployment, or none")
	case o.since <= 0:
		return o, usageError("--since %s: say how far back, such as 24h", o.since)
	}
	o.deployment = c.Args().First()
	return o, nil
}

// pastRun is one line of the history.
type pastRun struct {
	Deployment string     `json:"deployment"`
	Launch     string     `json:"launch"`
	Job        string     `json:"job"`
	State      string     `json:"state"` // the cluster's word; empty = it has told none
	Cause      string     `json:"cause"`
	Code       *int       `json:"exit_code"` // null = unknown
	Signal     *int       `json:"exit_signal"`
	Started    *time.Time `json:"started_at"`
	Ended      *time.Time `json:"ended_at"`
	Nodes      string     `json:"nodes"`
	Reason     string     `json:"reason"`
	Source     string     `json:"source"` // accounting or controller
}

// runHistory joins both sources. It works with either one alone.
func runHistory(ctx context.Context, inv *invocation, o historyOptions) error {
	since := inv.now().Add(-o.since)
	known, missing := inv.rememberedRuns(ctx, o.deployment, since)
	accounts, err := slurm.History(ctx, inv.Environ, filepath.Join(inv.set.get("stateDir"), "logs"), since)
	notes := []string{}
	switch {
	case err != nil && missing != nil:
		return missing
	case errors.Is(err, slurm.ErrNoAccounting):
		notes = append(notes, "there is no accounting of Slurm's to ask: this is what the controller remembers")
	case err != nil:
		notes = append(notes, fmt.Sprintf("%v: this is what the controller remembers", err))
	case missing != nil:
		notes = append(notes, fmt.Sprintf("no controller answers: this is Slurm's accounting alone (%v)", missing))
	}
	runs := joinRuns(known, accounts, o.deployment)
	if inv.json() {
		return inv.printJSON("history", map[string]any{"runs": runs, "notes": notes})
	}
	var rows [][]string
	for _, r := range runs {
		rows = append(rows, []string{
			timeText(r.Ended), orDash(r.Deployment), r.Launch, orDash(r.Job), orDash(r.State), orDash(r.Cause), exitText(r.Code, r.Signal), orDash(r.Nodes), r.Source,
			printable(r.Reason),
		})
	}
	if err := inv.table([]string{"ENDED", "DEPLOYMENT", "LAUNCH", "JOB", "STATE", "CAUSE", "EXIT", "NODES", "FROM", "HOW"}, rows); err != nil {
		return err
	}
	for _, n := range notes {
		inv.say("%s", n)
	}
	return nil
}

// rememberedRuns asks the controller; the error says why it cannot be asked.
func (inv *invocation) rememberedRuns(ctx context.Context, deployment string, since time.Time) ([]*apiv1.PastLaunch, error) {
	control, done, err := inv.control()
	if err != nil {
		return nil, err
	}
	defer done()
	resp, err := control.History(ctx, &apiv1.HistoryRequest{Deployment: deployment, Since: timestamppb.New(since)})
	if err != nil {
		return nil, err
	}
	return resp.Launches, nil
}

// joinRuns puts what the accounting tells first, each with what the controller knows of it, and then the launches that it does
// not tell of: local ones, and those that Slurm has lost.
func joinRuns(known []*apiv1.PastLaunch, accounts []slurm.Past, deployment string) []pastRun {
	byID := map[string]*apiv1.PastLaunch{}
	for _, l := range known {
		byID[l.Launch] = l
	}
	runs := []pastRun{}
	told := map[string]bool{}
	for i := len(accounts) - 1; i >= 0; i-- { // the last first
		a := accounts[i]
		l := byID[string(a.Launch)]
		if deployment != "" && l.GetDeployment() != deployment && !strings.HasPrefix(string(a.Launch), deployment+"-") {
			continue
		}
		told[string(a.Launch)] = true
		r := pastRun{
			Deployment: l.GetDeployment(), Launch: string(a.Launch), Job: a.Job, State: a.State, Cause: string(a.Cause), Started: whenKnown(a.Started),
			Ended: whenKnown(a.Ended), Nodes: a.Nodes, Reason: a.Reason, Source: "accounting",
		}
		if a.Exit != nil {
			r.Code, r.Signal = &a.Exit.Code, &a.Exit.Signal
		}
		if l != nil && l.Job == a.Job && l.Reason != "" {
			r.Cause, r.Reason = l.Cause, l.Reason // which knows of drains and hand-overs too
		}
		runs = append(runs, r)
	}
	for _, l := range known {
		if !told[l.Launch] {
			runs = append(runs, rememberedRun(l))
		}
	}
	return runs
}

func rememberedRun(l *apiv1.PastLaunch) pastRun {
	r := pastRun{
		Deployment: l.Deployment, Launch: l.Launch, Job: l.Job, Cause: l.Cause, Nodes: strings.Join(l.Nodes, ","), Reason: l.Reason, Source: "controller",
	}
	if l.StartedAt != nil {
		r.Started = whenKnown(l.StartedAt.AsTime())
	}
	if l.EndedAt != nil {
		r.Ended = whenKnown(l.EndedAt.AsTime())
	}
	if l.ExitCode != nil && l.ExitSignal != nil {
		code, signal := int(*l.ExitCode), int(*l.ExitSignal)
		r.Code, r.Signal = &code, &signal
	}
	return r
}

func whenKnown(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func timeText(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Local().Format("01-02 15:04:05")
}

// exitText says code and signal; unknown is a question mark.
func exitText(code, signal *int) string {
	switch {
	case code == nil || signal == nil:
		return "?"
	case *signal != 0:
		return fmt.Sprintf("signal %d", *signal)
	}
	return fmt.Sprintf("code %d", *code)
}
