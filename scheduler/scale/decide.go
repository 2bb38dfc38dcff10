package scale

import (
	"fmt"
	"math"
	"time"
)

// Seen is what is known of one role at a moment.
type Seen struct {
	Now    time.Time
	Wanted int // replicas that are wanted now
	// Known says that the load is: gateways have told of it lately. What is not known changes nothing.
	Known bool
	Ahead Load // when a replica that is asked for now would serve: a high quantile of the rate
	// Backlog is how many requests wait now. They have to be worked off beside what comes.
	Backlog int
	Lead    time.Duration // until it would serve: queue and start-up, as they have been of late
	Work    Work
}

// Limits of a role's replicas.
type Limits struct {
	Min, Max int // Max 0 = no bound
	Budget   int // what GPUs, quotas and the like allow; 0 = no bound
}

func (l Limits) most() int {
	most := math.MaxInt32
	for _, n := range []int{l.Max, l.Budget} {
		if n > 0 {
			most = min(most, n)
		}
	}
	return most
}

// Memory is what a decision needs of the ones before: how many replicas were needed, and when. The zero Memory has none.
type Memory struct {
	needs []need // falling numbers, rising times
}

type need struct {
	n    int
	when time.Time
}

// Decision is how many replicas there should be.
type Decision struct {
	Replicas int
	Needed   int    // for what lies ahead, within no limits
	Kept     bool   // the SLO will be kept with that many
	Reason   string // one sentence, with the numbers
}

// Cool-down: a replica that is not needed is kept for so long, and for so many times the time that it would take to get it back: what is
// scarce is held, what comes within seconds is let go.
const (
	coolDown      = 5 * time.Minute
	coolDownLeads = 2
)

// workOff is in how long a backlog should be gone, or in a lead where that is longer: what is asked for comes no sooner.
const workOff = time.Minute

// Decide says how many replicas a role should have. It asks at once for what will be needed by the time that it can be there, and gives back
// what was not needed for the whole of the cool-down. Limits hold whatever the load.
func Decide(mem Memory, in Seen, m *Model, s SLO, l Limits) (Memory, Decision) {
	most := l.most()
	within := func(n int) int { return min(max(n, l.Min), most) }
	if !in.Known {
		return mem, Decision{Replicas: within(in.Wanted), Needed: in.Wanted, Kept: true, Reason: "the load is unknown: as before"}
	}
	in.Ahead.Rate += float64(in.Backlog) / max(in.Lead, workOff).Seconds()
	capacity := m.Capacity(in.Ahead, in.Work, s)
	needed, kept := needed(in.Ahead.Rate, capacity, math.MaxInt32)
	if !kept {
		return mem, Decision{
			Replicas: within(in.Wanted), Needed: in.Wanted, Reason: fmt.Sprintf("no number of replicas keeps the slo for prompts of %.0f tokens (%.0f of them cached): as before", in.Ahead.Prompt, in.Ahead.Cached),
		}
	}
	keep := max(coolDown, coolDownLeads*in.Lead)
	mem = mem.add(needed, in.Now, keep)
	top := mem.needs[0]
	d := Decision{Replicas: within(top.n), Needed: needed, Kept: needed <= most}
	load := fmt.Sprintf("%.2f requests/s expected in %s, %.2f for each replica within the slo: %d needed", in.Ahead.Rate, in.Lead.Round(time.Second), capacity, needed)
	switch {
	case d.Replicas < needed:
		d.Reason = fmt.Sprintf("%s, but no more than %d are allowed", load, most)
	case top.n > needed && d.Replicas > needed:
		d.Reason = fmt.Sprintf("%s; %d were needed %s ago, and are kept for %s", load, top.n, in.Now.Sub(top.when).Round(time.Second), keep.Round(time.Second))
	case d.Replicas > needed:
		d.Reason = fmt.Sprintf("%s, but no fewer than %d are allowed", load, l.Min)
	default:
		d.Reason = load
	}
	return mem, d
}

// add takes in how many are needed now, and forgets what is older than keep, and what is no more than a later number.
func (mem Memory) add(n int, now time.Time, keep time.Duration) Memory {
	var needs []need
	for _, old := range mem.needs {
		if old.n > n && now.Sub(old.when) < keep {
			needs = append(needs, old)
		}
	}
	return Memory{append(needs, need{n, now})}
}
