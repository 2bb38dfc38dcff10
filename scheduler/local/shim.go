package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/statefile"
)

// Spec is what a shim starts. The zero grace is none.
type Spec struct {
	Argv, Env      []string // Env is complete
	Launch         cluster.LaunchID
	Run, Rank      string
	Stdout, Stderr *os.File
}

// Tree is a started process with everything that came out of it.
type Tree interface {
	// Wait waits until nothing of the tree is left and tells how its first process ended.
	Wait(ctx context.Context) (cluster.Exit, error)
	// Stop asks the first process to end and kills the whole tree after the grace. It may be called again, for a shorter
	// grace, and returns when nothing is left or ctx has ended.
	Stop(ctx context.Context, grace time.Duration) error
}

// StartFunc starts a process tree in a session of its own, as the child subreaper of all that comes out of it. cli makes
// one of agent/process.
type StartFunc func(Spec) (Tree, error)

const (
	exitCannotStart = 127              // of a rank whose agent could not be started, as in a shell
	exitBroken      = 1                // of a shim that found nothing to do
	stopLook        = time.Second      // how often a shim looks for a stop that no signal has told of
	killSlack       = 30 * time.Second // how long after the grace the killing may take before the shim gives up waiting
)

// RunJob is the whole life of a shim, the process between the cluster and one rank's agent: it starts the agent that the
// rank's folder describes, waits for it, kills what it left behind, and spools how it ended. The end of ctx asks the agent
// to end, within the grace of the job's stop. It returns the agent's exit code, 128 and the signal where one ended it.
//
// It must be the only thing that its process does: the process inherits files by number from Submit, and becomes a child
// subreaper by start.
func RunJob(ctx context.Context, dir string, start StartFunc, log zerolog.Logger) (exitCode int) {
	s := &shim{dir: dir, fs: statefile.OS{}, start: start}
	if err := readRecord(s.fs, filepath.Join(dir, rankFile), &s.rank); err != nil {
		log.Error().Err(err).Str("folder", dir).Msg("no rank to run")
		return exitBroken
	}
	s.log = log.With().Str("job", string(s.rank.Job)).Int("rank", s.rank.Rank).Logger()
	lock, err := s.takeOver()
	if err != nil {
		s.log.Error().Err(err).Msg("rank not started")
		return exitBroken
	}
	defer lock.Close() // after the exit status is on disk
	r := s.run(ctx)
	r.EndedAt = time.Now().UTC()
	if err := s.spool(r); err != nil {
		s.log.Error().Err(err).Msg("exit status lost")
	}
	switch {
	case r.Exit == nil:
		return exitBroken
	case r.Exit.Signal != 0:
		return 128 + r.Exit.Signal
	}
	return r.Exit.Code
}

// shim is the state of one RunJob.
type shim struct {
	dir   string
	fs    statefile.FS
	rank  rankRecord
	start StartFunc
	log   zerolog.Logger
}

// takeOver takes the lock that Submit hands down and waits for its word. An error: there is nothing to start.
func (s *shim) takeOver() (*os.File, error) {
	unix.CloseOnExec(lockFD)
	unix.CloseOnExec(gateFD)
	lock, gate := os.NewFile(lockFD, s.rank.Lock), os.NewFile(gateFD, "gate")
	defer gate.Close()
	var named unix.Stat_t
	if err := unix.Stat(s.rank.Lock, &named); err != nil {
		return nil, fmt.Errorf("lock %s: %w", s.rank.Lock, err)
	}
	if got, err := inodeOf(lock); err != nil || got != (inode{Dev: named.Dev, Ino: named.Ino}) {
		return nil, errors.New("this command is started by `penstock serve` and by nothing else")
	}
	if _, err := s.fs.Read(filepath.Join(s.dir, exitName), fileLimit); !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("it has run before")
	}
	if _, err := io.ReadFull(gate, make([]byte, 1)); err != nil {
		_ = s.spool(exitRecord{Reason: neverStarted, EndedAt: time.Now().UTC()}) // else Jobs finds out by itself
		return nil, errors.New("the controller ended or gave up before the job was started")
	}
	return lock, nil
}

// run starts the agent and sees it end.
func (s *shim) run(ctx context.Context) exitRecord {
	if _, stop := s.stopGrace(ctx.Err() != nil); stop {
		return exitRecord{Reason: "stopped before it was started"}
	}
	tree, err := s.start(Spec{
		Argv: s.rank.Argv, Env: s.rank.Env,
		Launch: cluster.LaunchID(s.rank.Mark.Launch), Run: s.rank.Mark.Run, Rank: s.rank.Mark.Rank,
		Stdout: os.Stdout, Stderr: os.Stderr,
	})
	if err != nil {
		s.log.Error().Err(err).Msg("agent not started")
		return exitRecord{Exit: &cluster.Exit{Code: exitCannotStart}, Reason: "the agent could not be started: " + err.Error()}
	}
	exit, asked, limited := s.attend(ctx, tree)
	s.sweep(context.WithoutCancel(ctx))
	r := exitRecord{Exit: exit, Reason: describe(exit, asked)}
	if limited {
		r.Reason, r.Cause = "its time limit was reached: "+r.Reason, cluster.EndedWalltime
	}
	return r
}

// limitGrace is what a rank has between the asking and the killing at the job's time limit.
const limitGrace = 5 * time.Second

// limit fires at the job's time limit; never where it has none.
func (s *shim) limit() (<-chan time.Time, func()) {
	if s.rank.EndsAt.IsZero() {
		return nil, func() {}
	}
	t := time.NewTimer(time.Until(s.rank.EndsAt))
	return t.C, func() { t.Stop() }
}

// attend waits for the tree and passes on what it is asked meanwhile. limited: the job's time limit has ended it.
func (s *shim) attend(ctx context.Context, tree Tree) (exit *cluster.Exit, asked, limited bool) {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	var stops sync.WaitGroup
	defer stops.Wait()
	defer end()
	done := make(chan *cluster.Exit, 1)
	stops.Go(func() {
		e, err := tree.Wait(life)
		if err != nil {
			s.log.Error().Err(err).Msg("agent lost")
			done <- nil
			return
		}
		done <- &e
	})
	look := time.NewTicker(stopLook)
	defer look.Stop()
	over, forget := s.limit()
	defer forget()
	told := ctx.Done()
	grace := time.Duration(-1)
	for {
		select {
		case exit := <-done:
			return exit, grace >= 0, limited
		case <-over:
			limited = true
			stops.Go(func() { s.stop(life, tree, limitGrace) })
		case <-told:
			told = nil
		case <-look.C:
		}
		if g, ok := s.stopGrace(told == nil); ok && (grace < 0 || g < grace) {
			grace = g
			stops.Go(func() { s.stop(life, tree, g) })
		}
	}
}

func (s *shim) stop(ctx context.Context, tree Tree, grace time.Duration) {
	s.log.Info().Dur("grace", grace).Msg("agent asked to end")
	ctx, cancel := context.WithTimeout(ctx, grace+killSlack)
	defer cancel()
	if err := tree.Stop(ctx, grace); err != nil && ctx.Err() == nil {
		s.log.Error().Err(err).Msg("agent not stopped")
	}
}

// stopGrace tells whether the rank should end, and how fast. A signal alone means the rank's own grace.
func (s *shim) stopGrace(signalled bool) (time.Duration, bool) {
	stop, err := readOptional[stopRecord](s.fs, filepath.Join(filepath.Dir(s.dir), stopName))
	switch {
	case stop != nil:
		return time.Duration(stop.Grace), true
	case err != nil && signalled:
		s.log.Warn().Err(err).Msg("stop without a readable grace")
	}
	return time.Duration(s.rank.Grace), signalled
}

// sweep kills what carries this rank's mark and was no part of the tree any more.
func (s *shim) sweep(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, killSlack)
	defer cancel()
	empty := 0
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		left, err := find(s.rank.Mark)
		if empty++; err != nil || len(left) > 0 {
			empty = 0
		}
		if empty == 2 { // what forks and ends may escape one look
			return
		}
		if err := errors.Join(err, send(left, unix.SIGKILL)); err != nil {
			s.log.Error().Err(err).Msg("leftovers not killed")
		}
		select {
		case <-ctx.Done():
			s.log.Error().Int("processes", len(left)).Msg("leftovers do not die")
			return
		case <-time.After(wait):
		}
	}
}

// spool writes the exit status, again and again for a while where the disk does not take it.
func (s *shim) spool(r exitRecord) (err error) {
	for range 30 {
		if err = writeExit(s.fs, s.dir, r); err == nil || errors.Is(err, fs.ErrNotExist) {
			return err
		}
		time.Sleep(time.Second)
	}
	return err
}

const neverStarted = "it was never started: the controller ended or gave up before"

// describe says in words how a rank ended; exit nil = nobody knows.
func describe(exit *cluster.Exit, asked bool) string {
	stopped := ""
	if asked {
		stopped = "stopped: "
	}
	switch {
	case exit == nil:
		return stopped + "ended, and nobody knows how"
	case exit.Signal != 0:
		return stopped + "killed by signal " + strconv.Itoa(exit.Signal) + " (" + unix.SignalName(unix.Signal(exit.Signal)) + ")"
	}
	return stopped + "exited with code " + strconv.Itoa(exit.Code)
}
