package gpu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// SMIOptions say how to call nvidia-smi.
type SMIOptions struct {
	Program string        // default: nvidia-smi in PATH
	Timeout time.Duration // for each call of the program; default 10 s
}

// SMI asks the nvidia-smi program, for where the library cannot be loaded. It tells less than NVML: no XIDs, only
// computing processes, and of MIG instances no more than their names. To start the program costs far more than to ask
// the library: sample rarely.
type SMI struct {
	program string
	timeout time.Duration
	now     func() time.Time
}

var _ Sampler = (*SMI)(nil)

const (
	defaultProgram = "nvidia-smi"
	defaultTimeout = 10 * time.Second
)

// NewSMI finds the program; it does not run it. The error is an ErrNoGPU where there is none.
func NewSMI(opts SMIOptions) (*SMI, error) {
	if opts.Program == "" {
		opts.Program = defaultProgram
	}
	if opts.Timeout <= 0 {
		opts.Timeout = defaultTimeout
	}
	program, err := exec.LookPath(opts.Program)
	if err != nil {
		return nil, fmt.Errorf("find nvidia-smi: %w: %w", ErrNoGPU, err)
	}
	return &SMI{program: program, timeout: opts.Timeout, now: time.Now}, nil
}

// Sample runs the program two times, three where cards have MIG instances. The error is an ErrNoGPU where the program
// says that there is no driver or no card.
func (s *SMI) Sample(ctx context.Context) (Sample, error) {
	sample := Sample{At: s.now(), Source: "nvidia-smi"}
	out, err := s.run(ctx, "--query-gpu="+strings.Join(cardFields[:], ","), "--format=csv,noheader,nounits")
	if err != nil {
		return Sample{}, err
	}
	cards, mig, err := parseCards(out)
	if err != nil {
		return Sample{}, s.failed(err)
	}
	out, err = s.run(ctx, "--query-compute-apps="+strings.Join(appFields[:], ","), "--format=csv,noheader,nounits")
	if err != nil {
		return Sample{}, err
	}
	apps, err := parseApps(out)
	if err != nil {
		return Sample{}, s.failed(err)
	}
	sample.GPUs = cards
	if len(mig) > 0 {
		if out, err = s.run(ctx, "-L"); err != nil {
			return Sample{}, err
		}
		sample.GPUs = withInstances(cards, parseList(out))
	}
	for i := range sample.GPUs {
		g := &sample.GPUs[i]
		// What runs on an instance is listed under its card by some versions of the program and under the instance by
		// others: where neither has any of its own, it is not known to have none.
		g.Processes = apps[g.UUID]
		if g.Processes == nil && g.MIGParent == "" && !mig[g.UUID] {
			g.Processes = []Process{}
		}
	}
	return sample, nil
}

func (s *SMI) failed(err error) error { return fmt.Errorf("sample GPUs with %s: %w", s.program, err) }

// maxOutput bounds what is read from the program.
const maxOutput = 4 << 20

// run runs the program once in a process group of its own, which is killed when ctx ends or the time is over.
func (s *SMI) run(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var out, complaint bounded
	cmd := exec.CommandContext(ctx, s.program, args...)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil && out.cut:
		return nil, s.failed(fmt.Errorf("more than %d bytes of output", maxOutput))
	case err == nil:
		return out.buf.Bytes(), nil
	case ctx.Err() != nil:
		return nil, s.failed(fmt.Errorf("no answer: %w", ctx.Err()))
	case errors.As(err, &exit):
		return nil, s.failed(exitError(exit.ExitCode(), firstLine(out.buf.Bytes(), complaint.buf.Bytes())))
	case errors.Is(err, fs.ErrNotExist):
		return nil, s.failed(fmt.Errorf("%w: %w", ErrNoGPU, err))
	}
	return nil, s.failed(err)
}

// exitError reads the program's exit code. It prints its reasons to standard output.
func exitError(code int, says string) error {
	const (
		noDevices = 6
		noDriver  = 9
		noLibrary = 12
	)
	switch code {
	case noDevices, noDriver, noLibrary:
		return fmt.Errorf("%w: exit %d: %s", ErrNoGPU, code, says)
	}
	return fmt.Errorf("exit %d: %s", code, says)
}

// firstLine gives the first line that says something, bounded.
func firstLine(outputs ...[]byte) string {
	const bound = 200
	for _, out := range outputs {
		line, _, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n"))
		if len(line) > 0 {
			return strings.ToValidUTF8(string(line[:min(len(line), bound)]), "?")
		}
	}
	return "it says nothing"
}

// bounded keeps the first bytes that are written to it. The buffer is no embedded field: its ReadFrom would let them all
// in.
type bounded struct {
	buf bytes.Buffer
	cut bool
}

func (b *bounded) Write(p []byte) (int, error) {
	room := maxOutput - b.buf.Len()
	b.cut = b.cut || len(p) > room
	b.buf.Write(p[:min(len(p), room)])
	return len(p), nil
}
