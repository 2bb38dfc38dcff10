package slurm

import (
	"bytes"
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

// runner runs Slurm's commands: with a deadline, in a process group of their own, with bounded output and nothing of the
// user's settings.
type runner struct {
	env     []string
	path    string // folders to look for commands in, as in PATH
	metrics metrics
}

const (
	maxOutput = 64 << 20 // a line is some 300 bytes: two hundred thousand jobs
	maxWords  = 64 << 10 // of what a command says on stderr
	// callLimit is the longest that a command may take whatever the caller's deadline: when slurmctld is away, squeue gives
	// up after 9 to 20 seconds by itself.
	callLimit = time.Minute
)

func newRunner(environ []string, folder string, m metrics) runner {
	r := runner{env: environment(environ), path: folder, metrics: m}
	for _, entry := range r.env {
		if value, ok := strings.CutPrefix(entry, "PATH="); ok && folder == "" {
			r.path = value
		}
	}
	return r
}

var (
	errNoCommand = errors.New("is not on the PATH: is this a login node of a Slurm cluster?")
	errTooMuch   = fmt.Errorf("answers more than %d MiB", maxOutput>>20)
)

// failure is a command that ended with another code than 0.
type failure struct {
	command string
	code    int
	words   string // what it said on stderr, on one line
}

func (f *failure) Error() string {
	if f.words == "" {
		return fmt.Sprintf("%s ended with code %d and said nothing", f.command, f.code)
	}
	return fmt.Sprintf("%s: %s", f.command, f.words)
}

// says reports whether the command said one of these.
func (f *failure) says(texts ...string) bool {
	for _, t := range texts {
		if strings.Contains(f.words, t) {
			return true
		}
	}
	return false
}

// run runs a command and returns what it prints. A code other than 0 is a *failure; any other error means that nobody knows
// whether it did what it was to do.
func (r runner) run(ctx context.Context, input, name string, args ...string) (out string, err error) {
	began := time.Now()
	defer func() { r.metrics.called(name, began, err) }()
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return "", context.DeadlineExceeded
	}
	file, err := r.find(name)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, file, args...)
	cmd.Env, cmd.Dir = r.env, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second // of a busy machine
	stdout, stderr := limited{most: maxOutput}, limited{most: maxWords}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("%s has not answered for %s: %w", name, time.Since(began).Round(100*time.Millisecond), ctx.Err())
	case stdout.over:
		return "", fmt.Errorf("%s %w", name, errTooMuch)
	case errors.As(err, &exit) && exit.Exited():
		return stdout.String(), &failure{name, exit.ExitCode(), oneLine(stderr.String())}
	case err != nil:
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return stdout.String(), nil
}

// find looks for a command in the runner's own PATH, not in this process's.
func (r runner) find(name string) (string, error) {
	for dir := range strings.SplitSeq(r.path, string(os.PathListSeparator)) {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && filepath.IsAbs(dir) && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s %w", name, errNoCommand)
}

// limited keeps the beginning of what is written to it.
type limited struct {
	bytes.Buffer
	most int
	over bool
}

func (l *limited) Write(p []byte) (int, error) {
	if room := l.most - l.Len(); len(p) > room {
		l.over = true
		l.Buffer.Write(p[:max(room, 0)])
		return len(p), nil
	}
	return l.Buffer.Write(p)
}

// oneLine joins what a command said, without the names of commands that Slurm puts before each line.
func oneLine(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if at := strings.Index(line, "error: "); at >= 0 && at < 12 {
			line = line[at+len("error: "):]
		}
		if line != "" {
			lines = append(lines, line)
		}
	}
	return strings.ToValidUTF8(strings.Join(lines, "; "), "?")
}
