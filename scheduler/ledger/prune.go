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
	if err := l.chargeGPUTime(term, ids); err != nil {
		return fmt.Errorf("forget ended launches: %w", err)
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

// chargeGPUTime adds the GPU time of launches that are about to be forgotten to deployments that have a cap on it. After a
// crash in between they may be counted twice: a cap ends a deployment a little early rather than late.
func (l *Ledger) chargeGPUTime(term uint64, ids []cluster.LaunchID) error {
	held := map[string]time.Duration{}
	for _, id := range ids {
		x, ok := l.Launch(id)
		d := l.deployment(x.Deployment)
		if !ok || d == nil || !d.capped() {
			continue
		}
		cards := d.specs[x.Revision].Roles[x.Role].GPUs.Count
		held[x.Deployment] += x.NodeTime(d.rec.Since, x.EndedAt) * time.Duration(cards)
	}
	for name, t := range held {
		if t == 0 {
			continue
		}
		d := l.deployment(name).clone()
		d.rec.GPUTime += t
		if err := l.putDeployment(term, d); err != nil {
			return err
		}
	}
	return nil
}

// capped: the deployment is to end after so many GPU hours.
func (d *deployment) capped() bool {
	return d.damaged == "" && d.specs[d.rec.Current].Lifetime.GPUHours > 0
}
