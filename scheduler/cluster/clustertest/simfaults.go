package clustertest

import (
	"context"
	"fmt"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
)

// Call names a method of the cluster contract.
type Call string

// The calls that can be made to fail.
const (
	SubmitCall   Call = "Submit"
	JobsCall     Call = "Jobs"
	StopCall     Call = "Stop"
	CapacityCall Call = "Capacity"
	SetCountCall Call = "SetCount"
	CountsCall   Call = "Counts"
)

// Fault is how one call goes wrong.
type Fault string

// The faults. On Jobs and Capacity, all but Refuse, Hang and OK are like Lose.
const (
	OK         Fault = ""            // nothing goes wrong
	Refuse     Fault = "refuse"      // ErrRefused, nothing done
	Lose       Fault = "lose"        // ErrUnknown, nothing done
	Accept     Fault = "accept"      // ErrUnknown, but done
	AcceptLate Fault = "accept late" // ErrUnknown, and done after SimOptions.Late (Submit only; else like Accept)
	Twice      Fault = "twice"       // done, and a second job with the same token exists (Submit only; else OK)
	Hang       Fault = "hang"        // no answer until the context ends, then ErrUnknown; nothing done
)

// Rates are probabilities from 0 to 1, per call, drawn from the seed. They are tried in the order of the fields.
type Rates struct {
	Refuse, Lose, Accept, AcceptLate, Twice float64
	Unknown                                 float64 // of Jobs, Stop, Capacity and SetCount to answer ErrUnknown
}

// Fail makes the next calls of one kind go wrong, one fault each, before any of Rates.
func (s *Sim) Fail(c Call, faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[c] = append(s.faults[c], faults...)
}

// Silence makes all calls answer ErrUnknown until it is lifted. Faults that were asked for stay for later.
func (s *Sim) Silence(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = on
}

// SetRates changes the random faults.
func (s *Sim) SetRates(r Rates) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opts.Rates = r
}

// enter counts a call and returns its fault, as an error when the call ends with it.
func (s *Sim) enter(ctx context.Context, c Call) (Fault, error) {
	f, err := s.fault(ctx, c)
	if err != nil {
		return f, err
	}
	switch f {
	case Refuse:
		return f, fmt.Errorf("simulated refusal: %w", cluster.ErrRefused)
	case Lose:
		return f, fmt.Errorf("simulated loss: %w", cluster.ErrUnknown)
	case Hang:
		<-ctx.Done()
		return f, fmt.Errorf("%w: %w", cluster.ErrUnknown, ctx.Err())
	case Accept, AcceptLate:
		if c == JobsCall || c == CapacityCall {
			return f, fmt.Errorf("simulated loss: %w", cluster.ErrUnknown)
		}
	}
	return f, nil
}

func (s *Sim) fault(ctx context.Context, c Call) (Fault, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[c]++
	if err := ctx.Err(); err != nil {
		return OK, fmt.Errorf("%w: %w", cluster.ErrUnknown, err)
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) { // the timer may not have fired yet
		return OK, fmt.Errorf("%w: %w", cluster.ErrUnknown, context.DeadlineExceeded)
	}
	if s.silent {
		return OK, fmt.Errorf("simulated silence: %w", cluster.ErrUnknown)
	}
	if queue := s.faults[c]; len(queue) > 0 {
		s.faults[c] = queue[1:]
		return queue[0], nil
	}
	return s.draw(c), nil
}

// draw picks a random fault. It draws nothing where no rate is set, so that rates alone do not change a history.
func (s *Sim) draw(c Call) Fault {
	r := s.opts.Rates
	if r == (Rates{}) {
		return OK
	}
	x := s.rng.Float64()
	if c != SubmitCall {
		if x < r.Unknown {
			return Lose
		}
		return OK
	}
	for _, p := range []struct {
		rate  float64
		fault Fault
	}{{r.Refuse, Refuse}, {r.Lose, Lose}, {r.Accept, Accept}, {r.AcceptLate, AcceptLate}, {r.Twice, Twice}} {
		if x < p.rate {
			return p.fault
		}
		x -= p.rate
	}
	return OK
}
