package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/statefile"
)

// HeldError says that another controller runs on the state folder.
type HeldError struct {
	Holder Holder
	Term   uint64
	Dir    string
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("another controller runs on %s: host %s, pid %d, since %s (term %d); stop it there, or choose another state folder",
		e.Dir, e.Holder.Hostname, e.Holder.PID, e.Holder.StartedAt.Format(time.RFC3339), e.Term)
}

// termRecord is the file of a term.
type termRecord struct {
	Format int    `json:"format"`
	Term   uint64 `json:"term"`
	Holder Holder `json:"holder"`
}

const (
	beatBytes  = 20 // of a beat: a decimal counter, or released, padded with spaces
	released   = "released"
	watchSteps = 10 // looks at a beat per lease
	beatsLease = 5  // beats per lease
	keepTerms  = 10
)

// Acquire makes this process the one that writes, and loads the folder again. It takes over at once from a holder that
// has released its term or whose process is gone from this host, and from one elsewhere when its beat has stood still
// for the lease while this process watched; else it returns a *HeldError. It blocks for at most about a lease.
//
// The caller keeps Run going afterwards, or is taken for dead.
func (l *Ledger) Acquire(ctx context.Context, h Holder) (uint64, error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	for _, dir := range []string{termsDir, intentDir} {
		if err := statefile.MakeDir(l.o.FS, filepath.Join(l.dir, dir)); err != nil {
			return 0, fmt.Errorf("acquire term: %w", err)
		}
	}
	term, err := l.takeTerm(ctx, h)
	if err != nil {
		return 0, fmt.Errorf("acquire term: %w", err)
	}
	l.setTerm(term, nil)
	clear(l.unsure)
	if err := l.whileBeating(term, func() error { return l.adopt(term) }); err != nil {
		l.setTerm(0, nil)
		_ = l.beat(term, released) // best effort: else the lease runs out
		return 0, fmt.Errorf("acquire term %d: read the ledger: %w", term, err)
	}
	l.dropOldTerms(term)
	l.AppendEvent(&apiv1.Event{Kind: "term", Message: fmt.Sprintf("controller on %s, pid %d, holds term %d", h.Hostname, h.PID, term)})
	for _, p := range l.Problems() {
		l.log.Error().Err(p.Err).Str("path", p.Path).Msg("file of the ledger cannot be read")
		l.AppendEvent(&apiv1.Event{Kind: "error", Message: fmt.Sprintf("%s cannot be read: %v", p.Path, p.Err)})
	}
	return term, nil
}

// takeTerm makes the file of a new term once the newest one's holder is gone.
func (l *Ledger) takeTerm(ctx context.Context, h Holder) (uint64, error) {
	for {
		newest, err := l.newestTerm()
		if err != nil {
			return 0, err
		}
		if newest > 0 {
			if err := l.awaitEnd(ctx, newest, h); err != nil {
				return 0, err
			}
		}
		term, err := l.nextTerm(newest)
		if err != nil {
			return 0, err
		}
		data, err := json.Marshal(termRecord{Format: format, Term: term, Holder: h})
		if err != nil {
			return 0, err
		}
		err = statefile.WriteNew(l.o.FS, l.termPath(term), data)
		if errors.Is(err, fs.ErrExist) {
			continue // another process was faster: it is the holder to look at now
		}
		if err != nil {
			return 0, err
		}
		return term, l.firstBeat(term)
	}
}

// nextTerm is the number after the newest. When somebody has removed files of terms, the intents still tell which were
// used.
func (l *Ledger) nextTerm(newest uint64) (uint64, error) {
	intent, err := l.newestIntent()
	if err != nil || intent <= newest {
		return newest + 1, err
	}
	now, err := l.newestTerm()
	if err != nil || now > newest {
		return newest + 1, err // it was taken meanwhile, so making its file fails
	}
	return intent + 1, nil
}

// awaitEnd returns nil once the holder of a term is known to be gone.
func (l *Ledger) awaitEnd(ctx context.Context, term uint64, us Holder) error {
	rec, err := l.readTerm(term)
	if err != nil {
		return err
	}
	if rec.Holder.Nonce == us.Nonce {
		return nil
	}
	first := l.readBeat(term)
	if strings.TrimSpace(first) == released {
		return nil
	}
	if alive, known := l.o.Alive(rec.Holder); known && !alive {
		return nil
	}
	// Looks are counted, not the clock: a clock that jumps, or this process paused, must not make a lease pass.
	tick := time.NewTicker(l.o.Lease / watchSteps)
	defer tick.Stop()
	for range watchSteps {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		now := l.readBeat(term)
		if strings.TrimSpace(now) == released {
			return nil
		}
		if now != first {
			return &HeldError{Holder: rec.Holder, Term: term, Dir: l.dir}
		}
		if alive, known := l.o.Alive(rec.Holder); known && !alive {
			return nil
		}
	}
	return nil
}

func (l *Ledger) readTerm(term uint64) (termRecord, error) {
	var rec termRecord
	data, err := l.o.FS.Read(l.termPath(term), maxRecord)
	if err != nil {
		return rec, err
	}
	if err := json.Unmarshal(data, &rec); err != nil {
		return rec, nil // written whole or not at all, so damaged later: its holder is unknown, and its beat decides
	}
	if rec.Format > format {
		return rec, fmt.Errorf("term %d: format %d: %w", term, rec.Format, ErrNewerFormat)
	}
	return rec, nil
}

// newestTerm lists the folder: on NFS that asks the server, where looking for one name may be answered from a cache.
func (l *Ledger) newestTerm() (newest uint64, err error) {
	names, err := l.o.FS.List(filepath.Join(l.dir, termsDir))
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		if n, ok := parseNumber(name); ok {
			newest = max(newest, n)
		}
	}
	return newest, nil
}

// Term returns the term that this process holds, or held; 0 = none.
func (l *Ledger) Term() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.term
}

func (l *Ledger) setTerm(term uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.term, l.termErr = term, err
}

// held returns the term, or why there is none, without asking the disk.
func (l *Ledger) held() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.termErr != nil {
		return 0, l.termErr
	}
	if l.term == 0 {
		return 0, ErrNoTerm
	}
	return l.term, nil
}

// CheckTerm asks the disk whether this process still holds its term. It is called before each submit. ErrTermLost is
// for good; any other error means that it cannot be told now, and nothing may be started.
func (l *Ledger) CheckTerm() error {
	term, err := l.held()
	if err != nil {
		return err
	}
	newest, err := l.newestTerm()
	switch {
	case err != nil:
		return fmt.Errorf("check term %d: %w", term, err)
	case newest == term:
		return nil
	}
	err = fmt.Errorf("term %d: %w (term %d)", term, ErrTermLost, newest)
	if newest < term {
		err = fmt.Errorf("term %d: %w: its file is gone from %s", term, ErrTermLost, filepath.Join(l.dir, termsDir))
	}
	l.setTerm(term, err)
	return err
}

// dropOldTerms removes files of terms long past, as best it can.
func (l *Ledger) dropOldTerms(term uint64) {
	names, err := l.o.FS.List(filepath.Join(l.dir, termsDir))
	if err != nil {
		return
	}
	for _, name := range names {
		first, _, _ := strings.Cut(name, ".") // N, N.beat, N.tmp-...
		if n, ok := parseNumber(first); ok && n+keepTerms <= term {
			_ = l.o.FS.Remove(filepath.Join(l.dir, termsDir, name))
		}
	}
}
