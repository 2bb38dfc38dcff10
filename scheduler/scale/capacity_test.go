package scale

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func anyLoad(t *rapid.T) Load {
	l := Load{Rate: rapid.Float64Range(0.01, 50).Draw(t, "rate"), Prompt: rapid.Float64Range(1, 20000).Draw(t, "prompt"), Output: rapid.Float64Range(1, 2000).Draw(t, "output")}
	l.Cached = l.Prompt * rapid.Float64Range(0, 1).Draw(t, "cached")
	return l
}

func anySLO(t *rapid.T) SLO {
	return SLO{
		TTFT: time.Duration(rapid.Int64Range(0, 10_000).Draw(t, "ttft")) * time.Millisecond, ITL: time.Duration(rapid.Int64Range(0, 200).Draw(t, "itl")) * time.Millisecond,
		Share: rapid.Float64Range(0.5, 0.99).Draw(t, "share"),
	}
}

// TestNeededIsMonotone: more load never needs less, nor a tighter SLO, nor fewer cached tokens.
func TestNeededIsMonotone(t *testing.T) {
	m := Simulated
	rapid.Check(t, func(t *rapid.T) {
		l, s := anyLoad(t), anySLO(t)
		w := Work(rapid.IntRange(0, 2).Draw(t, "work"))
		const most = 10_000
		n, kept := m.Needed(l, w, s, most)
		if n < 0 || n > most || kept && n > 0 && !m.Keeps(l.Each(n), w, s) && m.Capacity(l, w, s)*float64(n) < l.Rate*0.999 {
			t.Fatalf("%d replicas, kept: %v", n, kept)
		}
		more := func(what string, l Load, s SLO) {
			if more, keptToo := m.Needed(l, w, s, most); more < n || keptToo && !kept {
				t.Fatalf("%s: %d replicas (%v), before %d (%v)", what, more, keptToo, n, kept)
			}
		}
		busier := l
		busier.Rate *= rapid.Float64Range(1, 5).Draw(t, "times")
		more("more requests", busier, s)
		colder := l
		colder.Cached *= rapid.Float64Range(0, 1).Draw(t, "colder")
		more("less cached", colder, s)
		tighter := s
		tighter.Share = 0.995
		if s.TTFT > 0 {
			tighter.TTFT = max(1, s.TTFT*9/10)
		}
		if s.ITL > 0 {
			tighter.ITL = max(1, s.ITL*9/10)
		}
		more("a tighter SLO", l, tighter)
	})
}

func TestEstimate(t *testing.T) {
	m := Simulated
	idle, ok := m.At(Load{Rate: 1e-9, Prompt: 1000, Output: 100}, Both, SLO{})
	if want := m.Prefill(1000, 0) + m.DecodeBase; !ok || idle.TTFT.Round(time.Millisecond) != milliseconds(want).Round(time.Millisecond) {
		t.Errorf("an idle replica: %+v, %v; want %g ms", idle, ok, want)
	}
	if e, ok := m.At(Load{Rate: 1000, Prompt: 1000, Output: 100}, Both, SLO{}); ok {
		t.Errorf("a thousand prompts a second: %+v", e)
	}
	if e, ok := m.At(Load{Rate: 3, Prompt: 12000, Output: 1000}, AnswerOnly, SLO{}); ok {
		t.Errorf("more answers than the cache holds: %+v", e)
	}
	if n, kept := m.Needed(Load{Rate: 1, Prompt: 30000, Output: 10}, Both, SLO{TTFT: time.Millisecond}, 7); n != 7 || kept {
		t.Errorf("an SLO that nobody can keep: %d, %v", n, kept)
	}
	if n, kept := m.Needed(Load{}, Both, SLO{}, 7); n != 0 || !kept {
		t.Errorf("nothing to do: %d, %v", n, kept)
	}
}
