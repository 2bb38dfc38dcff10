package ledger

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/penstock/penstock/scheduler/statefile"
)

// Run keeps the term: it turns the beat until ctx ends (nil) or the term is lost (ErrTermLost). A beat that cannot be
// written is logged and tried again: whether the term is lost is for CheckTerm to say.
func (l *Ledger) Run(ctx context.Context) error {
	term, err := l.held()
	if err != nil {
		return err
	}
	tick := time.NewTicker(l.o.Lease / beatsLease)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := l.CheckTerm(); errors.Is(err, ErrTermLost) || errors.Is(err, ErrNoTerm) {
			return err
		} else if err != nil {
			l.log.Warn().Err(err).Msg("cannot tell whether this controller still holds its term")
		}
		if err := l.nextBeat(term); err != nil {
			l.log.Warn().Err(err).Msg("heartbeat of the controller's term not written")
		}
	}
}

// whileBeating runs a task that may take longer than a lease.
func (l *Ledger) whileBeating(term uint64, task func() error) error {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(l.o.Lease / beatsLease)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				_ = l.nextBeat(term) // if it goes on so, the term is lost, and the task's writes say so
			}
		}
	})
	err := task()
	close(done)
	wg.Wait()
	return err
}

// Release gives the term back, so that the next controller need not wait. Nothing can be written afterwards.
func (l *Ledger) Release() error {
	l.writing.Lock()
	defer l.writing.Unlock()
	term, err := l.held()
	if err != nil {
		return err
	}
	if err := l.beat(term, released); err != nil {
		return fmt.Errorf("release term %d: %w", term, err)
	}
	l.setTerm(0, nil)
	return nil
}

func (l *Ledger) beatPath(term uint64) string { return l.termPath(term) + beatSuffix }

// readBeat returns the beat as it is; one that cannot be read is one that does not change.
func (l *Ledger) readBeat(term uint64) string {
	b, err := l.o.FS.Read(l.beatPath(term), beatBytes)
	if err != nil {
		return ""
	}
	return string(b)
}

func (l *Ledger) firstBeat(term uint64) error {
	return statefile.Write(l.o.FS, l.beatPath(term), fmt.Appendf(nil, "%-*d", beatBytes, 1))
}

func (l *Ledger) nextBeat(term uint64) error { return l.beat(term, number(l.beats.Add(1)+1)) }

// beat writes in place, always the same length: on a full disk a living controller must not look dead.
func (l *Ledger) beat(term uint64, s string) error {
	f, err := l.o.FS.Overwrite(l.beatPath(term))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%-*s", beatBytes, s)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
