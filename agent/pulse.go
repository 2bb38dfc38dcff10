package agent

import "time"

// Liveness says when an engine that accepts and does not answer is taken for dead. Zero values mean the defaults.
type Liveness struct {
	Every    time.Duration // between two looks; default 5s
	Deadline time.Duration // of a health check; default 5s
	Failures int           // in a row, of one kind of check; default 3
	// Quiet: when no token came for so long, busy or idle, one is asked for. Default 60s.
	Quiet         time.Duration
	TokenDeadline time.Duration // of that token; default 60s
}

func (l Liveness) withDefaults() Liveness {
	return Liveness{
		Every:         orElse(l.Every, 5*time.Second),
		Deadline:      orElse(l.Deadline, 5*time.Second),
		Failures:      orElse(l.Failures, 3),
		Quiet:         orElse(l.Quiet, time.Minute),
		TokenDeadline: orElse(l.TokenDeadline, time.Minute),
	}
}

func orElse[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// pulse judges one running engine. Tokens that flow prove life whatever the checks say: an overloaded engine may answer
// its health check late. A good health check does not clear failed tokens: a server may answer while the engine behind it
// hangs.
type pulse struct {
	failures    int // checks of one kind in a row that make an engine dead
	quiet       time.Duration
	work        float64   // what was counted at the last look: tokens, bytes to clients
	proofAt     time.Time // when tokens were last seen to flow
	sickHealth  int
	sickTokens  int
	lastTrouble error
}

func newPulse(l Liveness, now time.Time) *pulse {
	return &pulse{failures: l.Failures, quiet: l.Quiet, proofAt: now}
}

// flowed takes the present count of work done. Any change proves life.
func (p *pulse) flowed(now time.Time, work float64) {
	if work != p.work {
		p.work = work
		p.alive(now)
	}
}

func (p *pulse) alive(now time.Time) {
	p.proofAt, p.sickHealth, p.sickTokens, p.lastTrouble = now, 0, 0, nil
}

// health takes the result of a health check.
func (p *pulse) health(err error) {
	if err == nil {
		p.sickHealth = 0
		return
	}
	p.sickHealth++
	p.lastTrouble = err
}

// wantsToken tells whether it is time to ask for a token.
func (p *pulse) wantsToken(now time.Time) bool { return now.Sub(p.proofAt) >= p.quiet }

// token takes the result of asking for one.
func (p *pulse) token(now time.Time, err error) {
	if err == nil {
		p.alive(now)
		return
	}
	p.sickTokens++
	p.lastTrouble = err
}

// dead tells whether the engine is to be ended, and why.
func (p *pulse) dead() (error, bool) {
	return p.lastTrouble, p.sickHealth >= p.failures || p.sickTokens >= p.failures
}
