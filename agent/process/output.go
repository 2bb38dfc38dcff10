package process

import (
	"fmt"
	"io"
	"os"
	"time"
)

// pipe carries output of the tree to a writer.
type pipe struct {
	read, write *os.File
	to          io.Writer
	copied      chan struct{} // closed when nothing more comes; nil before the copying has begun
}

// connect opens a pipe for each writer that is no file. One writer for both streams gets one pipe, which keeps the
// order of what comes.
func (p *Process) connect(stdout, stderr io.Writer) error {
	var err error
	if p.cmd.Stdout, err = p.plumb(stdout); err != nil {
		return err
	}
	if oneWriter(stdout, stderr) {
		p.cmd.Stderr = p.cmd.Stdout
		return nil
	}
	if p.cmd.Stderr, err = p.plumb(stderr); err != nil {
		p.disconnect()
	}
	return err
}

func (p *Process) plumb(w io.Writer) (io.Writer, error) {
	if f, ok := w.(*os.File); ok || w == nil {
		if f == nil {
			return nil, nil
		}
		return f, nil
	}
	r, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("open a pipe for its output: %w", err)
	}
	p.pipes = append(p.pipes, &pipe{read: r, write: in, to: w})
	return in, nil
}

// oneWriter tells whether two writers are one. Writers of a type that cannot be compared are two.
func oneWriter(a, b io.Writer) (equal bool) {
	defer func() { _ = recover() }()
	return a == b
}

// copyOutput begins to feed the writers, once the tree holds the other ends.
func (p *Process) copyOutput() {
	for _, c := range p.pipes {
		_ = c.write.Close()
		c.copied = make(chan struct{})
		go c.run()
	}
}

// run reads until nobody writes any more. It reads on when the writer fails: output may be lost, but an engine never
// stops because of it.
func (c *pipe) run() {
	defer close(c.copied)
	buf := make([]byte, 32<<10)
	for {
		n, err := c.read.Read(buf)
		if n > 0 {
			_, _ = c.to.Write(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// lastOutput is how long output is waited for after the tree is gone: only a process that is not of the tree can still
// hold the pipe then.
const lastOutput = time.Second

// disconnect waits for the last output and closes the pipes.
func (p *Process) disconnect() {
	for _, c := range p.pipes {
		if c.copied == nil {
			_ = c.write.Close()
		} else {
			_ = c.read.SetReadDeadline(time.Now().Add(lastOutput))
			<-c.copied
		}
		_ = c.read.Close()
	}
}
