package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/oklog/run"
	"github.com/urfave/cli/v2"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/identity"
)

func serveCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "serve", Usage: "run the controller, with a gateway",
		Description: "Ends on ctrl-c or SIGTERM; deployments go on serving and are found again at the next start.\n" +
			"A service manager that runs it must leave its children alone (systemd: KillMode=process).\n" +
			"Where this host belongs to a Slurm cluster, deployments with cluster: slurm become its jobs, whose agents dial back to\n" +
			"--advertise (default: this host's name) or to an address of this host. Slurm is asked by its commands, or, with\n" +
			"--slurm rest:unix:PATH or rest:https://HOST:PORT, through slurmrestd; a token comes from --slurm-token-file alone.\n" +
			"Where NOMAD_ADDR is set, deployments with cluster: nomad become Nomad's jobs; its other variables (NOMAD_TOKEN, NOMAD_CACERT,\n" +
			"NOMAD_NAMESPACE, ...) are read as Nomad's own command line reads them. nomad/policy/penstock.hcl is the ACL policy it needs.",
		Flags: append(roleFlags("controller.listen", "controller.advertise", "slurm.use", "slurm.tokenFile", "nomad.use", "nomad.tokenFile", "nomad.program", "nomad.maxKillTimeout", "gateway.listen", "gateway.tls", "gateway.advertise", "gateway.route", "local.nodes"),
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "run in the background; return when it answers"},
			&cli.BoolFlag{Name: "stop", Usage: "end the controller that runs; deployments go on serving"},
			&cli.BoolFlag{Name: "replace", Usage: "ask the controller that runs to make way, and take its place"},
			&cli.BoolFlag{Name: "no-gateway", Usage: "no gateway in this process"},
			&cli.StringFlag{Name: "allocation", Hidden: true, Usage: "folder of the Slurm job whose nodes it serves on (penstock render)"},
			&cli.IntFlag{Name: "launcher", Hidden: true, Usage: "process ID of the srun that has started the keepers"},
			logFileFlag(),
		),
		Action: action(std, parseServe, runServe),
	}
}

type serveOptions struct {
	detach, stop, noGateway bool
	replace                 bool
	logFile                 string // empty: stderr, or with detach one in the state folder
	allocation              string // the job's folder
	launcher                int
}

func parseServe(c *cli.Context) (serveOptions, error) {
	_, err := nothing(c)
	return serveOptions{
		c.Bool("detach"), c.Bool("stop"), c.Bool("no-gateway"), c.Bool("replace"), c.String("log-file"), c.String("allocation"), c.Int("launcher"),
	}, err
}

func runServe(ctx context.Context, inv *invocation, o serveOptions) error {
	if o.allocation != "" {
		return serveAllocation(ctx, inv, o)
	}
	if o.stop {
		return stopController(ctx, inv)
	}
	if err := inv.checkServe(); err != nil {
		return err
	}
	switch {
	case o.detach:
		return detachController(ctx, inv, o)
	case o.replace:
		if err := replaceController(ctx, inv); err != nil {
			return err
		}
	}
	c, err := newController(ctx, inv, o, nil)
	if err != nil {
		return err
	}
	return c.run(ctx)
}

// checkServe finds what is wrong with the settings before anything is started or asked to go.
func (inv *invocation) checkServe() error {
	_, _, err := inv.clientsAddress()
	if err == nil {
		_, err = parseLocalNodes(inv.set.get("local.nodes"))
	}
	return err
}

// run keeps the controller's parts going until one of them ends, or ctx does; then all end.
func (c *controller) run(ctx context.Context) error {
	var group run.Group
	add := func(f func(context.Context) error) {
		ctx, cancel := context.WithCancel(ctx)
		group.Add(func() error { return f(ctx) }, func(error) { cancel() })
	}
	done := make(chan struct{})
	group.Add(func() error {
		select {
		case <-ctx.Done():
		case <-c.shutdown:
		case <-done:
		}
		return nil
	}, func(error) { close(done) })
	for _, part := range c.parts() {
		add(part)
	}
	c.log.Info().Str("url", c.endpoint.URL).Str("gateway", c.endpoint.GatewayURL).Uint64("term", c.endpoint.Term).Msg("controller serves")
	err := group.Run()
	return errors.Join(err, c.close())
}

const detachPatience = 30 * time.Second

// detachController starts `penstock serve` in a session of its own and waits until it answers. What it says at its start
// goes to the terminal when it fails.
func detachController(ctx context.Context, inv *invocation, o serveOptions) error {
	if client, done, err := inv.control(); err == nil {
		v, err := client.Version(ctx, &apiv1.VersionRequest{})
		done()
		if err == nil {
			return fail(ExitError, "penstock serve --stop ends it", "a controller runs already: term %d, pid %d on %s", v.Term, v.Pid, v.Hostname)
		}
	}
	state := inv.set.get("stateDir")
	if err := identity.SecureDir(state); err != nil {
		return err
	}
	name := inv.path(orDefault(o.logFile, filepath.Join(state, "serve.log")))
	log, err := openServeLog(name)
	if err != nil {
		return err
	}
	defer log.Close()
	// All flags are given, so that their variables, which the child inherits, do not count.
	cmd := exec.Command(inv.Self, "serve", "--detach=false", "--stop=false", "--replace="+strconv.FormatBool(o.replace), "--no-gateway="+strconv.FormatBool(o.noGateway), "--log-file="+name)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = inv.detachedEnv(), inv.Dir, log.File, log.File
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the controller: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return awaitController(ctx, inv, cmd.Process.Pid, ended, log)
}

// serveLog is the log of a controller in the background, and where that controller's own part begins.
type serveLog struct {
	*os.File
	begin int64
}

func openServeLog(name string) (serveLog, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return serveLog{}, fmt.Errorf("open the controller's log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return serveLog{}, errors.Join(err, f.Close())
	}
	return serveLog{f, info.Size()}, nil
}

// last gives what the controller has said last.
func (l serveLog) last() string {
	text, _ := io.ReadAll(io.NewSectionReader(l, l.begin, 1<<20))
	return lastLines(string(text), 10)
}

// detachedEnv hands every setting of this call to the background process by its variable.
func (inv *invocation) detachedEnv() []string {
	env := append([]string(nil), inv.Environ...)
	for i, v := range inv.set.values {
		if v.Origin == "default" || v.Key == "json" {
			continue
		}
		env = append(env, settings[i].Env()+"="+v.Value)
	}
	return append(env, "PENSTOCK_JSON=false")
}

func awaitController(ctx context.Context, inv *invocation, pid int, ended <-chan error, log serveLog) error {
	deadline := time.After(detachPatience)
	for {
		if client, done, err := inv.control(); err == nil {
			v, err := client.Version(ctx, &apiv1.VersionRequest{})
			done()
			if err == nil && v.Pid == int64(pid) {
				return sayDetached(ctx, inv, v, log.Name())
			}
		}
		select {
		case <-ended:
			return fail(ExitError, "", "the controller ended at once:\n%s", log.last())
		case <-deadline:
			return fail(ExitTimeout, "its log is "+log.Name(), "the controller (pid %d) does not answer after %s", pid, detachPatience)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func sayDetached(ctx context.Context, inv *invocation, v *apiv1.VersionResponse, log string) error {
	e, err := identity.ReadEndpoint(filepath.Join(inv.set.get("stateDir"), endpointFile))
	if err != nil {
		return err
	}
	client, done, err := inv.control()
	if err != nil {
		return err
	}
	defer done()
	st, err := client.Status(ctx, &apiv1.StatusRequest{})
	if err != nil {
		return err
	}
	if inv.json() {
		return inv.printJSON("serve", map[string]any{
			"pid": v.Pid, "term": v.Term, "controller": e.URL, "gateway": e.GatewayURL, "log": log, "warnings": append([]string{}, st.Warnings...),
		})
	}
	inv.say("controller runs: pid %d, term %d; gateway %s; log %s", v.Pid, v.Term, orDash(e.GatewayURL), log)
	for _, w := range st.Warnings {
		inv.say("warning: %s", w)
	}
	return nil
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// parseLocalNodes reads NAME:GPUS,NAME:GPUS.
func parseLocalNodes(text string) (out []jobspecs.LocalNode, err error) {
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		name, count, ok := strings.Cut(part, ":")
		n := 0
		if ok {
			n, err = strconv.Atoi(count)
		}
		if name == "" || err != nil || n < 0 {
			return nil, usageError("--local-nodes: %q is not NAME:GPUS", part)
		}
		out = append(out, jobspecs.LocalNode{Name: name, GPUs: n})
	}
	return out, nil
}
