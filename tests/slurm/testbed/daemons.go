package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// startSlurm starts everything on the login node.
func (b *Bed) startSlurm(ctx context.Context) error {
	if _, err := b.Root(ctx, "munged", "--force", "--key-file="+b.path("etc/munge.key"), "--socket="+b.path("run/munge.socket"),
		"--pid-file="+b.path("run/munged.pid"), "--log-file="+b.path("log/munged.log"), "--seed-file="+b.path("run/munge.seed"),
		"--num-threads=4"); err != nil {
		return err
	}
	if b.opts.Accounting {
		if err := b.startAccounting(ctx); err != nil {
			return err
		}
	}
	if err := b.StartSlurmctld(ctx); err != nil {
		return err
	}
	return b.StartSlurmrestd(ctx)
}

// StartSlurmctld starts slurmctld on the login node.
func (b *Bed) StartSlurmctld(ctx context.Context) error {
	_, err := b.Root(ctx, "slurmctld", "-f", b.path("etc/slurm.conf"))
	return err
}

// KillSlurmctld kills slurmctld, which saves nothing any more.
func (b *Bed) KillSlurmctld() error { return b.Login().killDaemon("slurmctld", syscall.SIGKILL) }

// StopSlurmctld ends slurmctld as an administrator does.
func (b *Bed) StopSlurmctld() error { return b.Login().killDaemon("slurmctld", syscall.SIGTERM) }

// SavedSince says whether slurmctld has written down its jobs since then. What it acknowledges later is lost when it is killed.
func (b *Bed) SavedSince(then time.Time) bool {
	info, err := os.Stat(b.path("state", "job_state"))
	return err == nil && info.ModTime().After(then)
}

// SignalSlurmctld sends slurmctld a signal, such as SIGSTOP, after which it takes questions and never answers.
func (b *Bed) SignalSlurmctld(sig syscall.Signal) error {
	for _, pid := range b.Login().daemons("slurmctld") {
		if err := syscall.Kill(pid, sig); err != nil {
			return err
		}
	}
	return nil
}

// StartSlurmd starts the slurmd of a compute node and returns once it listens.
func (m *Machine) StartSlurmd(ctx context.Context) error {
	if _, err := m.Run(ctx, Root, "slurmd", "-f", m.bed.path("etc/slurm.conf"), "-N", m.Name); err != nil {
		return err
	}
	return m.bed.Until(ctx, "slurmd listens on "+m.Name, func() (bool, error) {
		c, err := m.DialContext(ctx, "tcp", "127.0.0.1:6818")
		if err == nil {
			err = c.Close()
		}
		return err == nil, err
	})
}

// KillSlurmd kills the slurmd of a compute node. Its jobs run on.
func (m *Machine) KillSlurmd() error { return m.killDaemon("slurmd", syscall.SIGKILL) }

// killDaemon signals all processes of a name on the machine and waits until they are gone.
func (m *Machine) killDaemon(name string, sig syscall.Signal) error {
	pids := m.daemons(name)
	if len(pids) == 0 {
		return fmt.Errorf("no %s runs on %s", name, m.Name)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
		for deadline := time.Now().Add(30 * time.Second); alive(pid); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				return fmt.Errorf("%s on %s does not end", name, m.Name)
			}
		}
	}
	return nil
}

// daemons lists the processes of a name on the machine.
func (m *Machine) daemons(name string) (pids []int) {
	for _, pid := range m.Processes() {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if strings.TrimSpace(string(comm)) == name {
			pids = append(pids, pid)
		}
	}
	return pids
}

// RESTAddr is where slurmrestd listens with JSON web tokens, on the login node.
const RESTAddr = "127.0.0.1:6820"

// RESTSocket is the unix socket where Alice's own slurmrestd acts for her, without any token.
func (b *Bed) RESTSocket() string { return b.path("home", Alice.Name, "slurmrestd.sock") }

// StartSlurmrestd starts both slurmrestds.
func (b *Bed) StartSlurmrestd(ctx context.Context) error {
	plugin := "slurmctld"
	if strings.HasPrefix(b.release, "22.") {
		plugin = "openapi/v0.0.38"
	}
	if err := os.Remove(b.RESTSocket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, d := range []struct {
		as   User
		auth string
		env  []string
		at   string
	}{
		{REST, "rest_auth/jwt", []string{"SLURM_JWT=daemon"}, RESTAddr},
		{Alice, "rest_auth/local", nil, "unix:" + b.RESTSocket()},
	} {
		log, err := os.Create(b.path("log", "slurmrestd-"+filepath.Base(d.auth)+".log"))
		if err != nil {
			return err
		}
		cmd := b.Login().Command(context.WithoutCancel(ctx), d.as, d.env, "setsid", "--fork", "slurmrestd", "-a", d.auth, "-s", plugin, d.at)
		cmd.Stdout, cmd.Stderr = log, log
		err = cmd.Run()
		if cerr := log.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return fmt.Errorf("start slurmrestd: %w", err)
		}
	}
	return nil
}

// KillSlurmrestd kills both slurmrestds.
func (b *Bed) KillSlurmrestd() error { return b.Login().killDaemon("slurmrestd", syscall.SIGKILL) }

// Token makes a JSON web token for a user.
func (b *Bed) Token(ctx context.Context, u User, lifespan time.Duration) (string, error) {
	out, err := b.Root(ctx, "scontrol", "token", "username="+u.Name, fmt.Sprintf("lifespan=%d", int(lifespan.Seconds())))
	if err != nil {
		return "", err
	}
	token, ok := strings.CutPrefix(out, "SLURM_JWT=")
	if !ok {
		return "", errors.New("scontrol token printed no SLURM_JWT") // and what it printed is none of a log's
	}
	return token, nil
}

// Until asks until a condition holds or the context ends.
func (b *Bed) Until(ctx context.Context, what string, ok func() (bool, error)) error {
	for {
		yes, err := ok()
		if yes && err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain until %s: %w", what, errors.Join(ctx.Err(), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Shell makes a shell of a user on a machine, on this process's terminal.
func (m *Machine) Shell(ctx context.Context, u User, argv ...string) *exec.Cmd {
	if len(argv) == 0 {
		argv = []string{"bash"}
	}
	cmd := m.Command(ctx, u, []string{"TERM=" + os.Getenv("TERM")}, argv...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd
}
