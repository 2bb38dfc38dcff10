package ledger

import (
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
)

// expired lists the ended launches that are not worth remembering: too old, or too many of one deployment.
func expired(launches map[cluster.LaunchID]*cluster.Launch, now time.Time, keep int, keepFor time.Duration) []cluster.LaunchID {
	ended := map[string][]*cluster.Launch{}
	for _, x := range launches {
		if x.Phase == cluster.Ended {
			ended[x.Deployment] = append(ended[x.Deployment], x)
		}
	}
	var out []cluster.LaunchID
	for _, list := range ended {
		slices.SortFunc(list, func(a, b *cluster.Launch) int { return b.EndedAt.Compare(a.EndedAt) })
		for i, x := range list {
			if i >= keep || now.Sub(x.EndedAt) > keepFor {
				out = append(out, x.ID)
			}
		}
	}
	return out
}

// prune forgets ended launches while the controller runs. The counters are saved first: epochs never go back.
func (l *Ledger) prune() error {
	l.mu.RLock()
	ids := expired(l.state.launches, l.o.Now(), l.o.KeepEnded, l.o.KeepEndedFor)
	epoch, saved, term := l.state.epoch, l.state.savedEpoch, l.term
	l.mu.RUnlock()
	if len(ids) == 0 {
		return nil
	}
	if epoch > saved {
		path := filepath.Join(l.intentPath(term), countersFile)
		if _, err := l.putJSON(path, countersRecord{Format: format, Term: term, Epoch: epoch}); err != nil {
			return fmt.Errorf("forget ended launches: %w", err)
		}
	}
	for _, id := range ids {
		if err := l.o.FS.Remove(launchPath(l.intentPath(term), id)); err != nil {
			return fmt.Errorf("forget launch %s: %w", id, err)
		}
		l.mu.Lock()
		delete(l.state.launches, id)
		l.state.savedEpoch = epoch
		l.mu.Unlock()
	}
	return nil
}
