package scale

import (
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestForetell(t *testing.T) {
	day := make([]float64, 240)
	for i := range day {
		day[i] = 50 + 40*math.Sin(2*math.Pi*float64(i)/60)
	}
	ramp := make([]float64, 60)
	for i := range ramp {
		ramp[i] = float64(10 * i)
	}
	for name, tc := range map[string]struct {
		values      []float64
		period      time.Duration
		method      string
		least, most float64
	}{
		"nothing":            {nil, 0, "", 0, 0},
		"one value":          {[]float64{7}, 0, "constant", 7, 7},
		"always the same":    {[]float64{5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5}, 0, "constant", 5, 5},
		"rising":             {ramp, 0, "trend", 640, 760},
		"a day like another": {day, time.Hour, "season", day[9] - 1, day[9] + 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := Foretell(Series{time.Minute, tc.values}, 10*time.Minute, tc.period, 0.9)
			if f.Method != tc.method || f.Value < tc.least || f.Value > tc.most || f.High < f.Value {
				t.Errorf("got %+v, want %s from %g to %g", f, tc.method, tc.least, tc.most)
			}
		})
	}
}

var chat = Load{Rate: 10, Prompt: 3000, Cached: 1000, Output: 200}

var target = SLO{TTFT: 2 * time.Second, ITL: 40 * time.Millisecond}

func seen(after time.Duration, rate float64, wanted int) Seen {
	l := chat
	l.Rate = rate
	return Seen{Now: start.Add(after), Wanted: wanted, Known: true, Ahead: l, Lead: time.Minute}
}

func TestDecide(t *testing.T) {
	m := Simulated
	var mem Memory
	var d Decision
	wanted := 1
	for i, step := range []struct {
		after time.Duration
		rate  float64
		want  func(before int) bool
		says  string
	}{
		{0, 40, func(int) bool { return wanted >= 4 }, "needed"},
		{time.Minute, 10, func(before int) bool { return wanted == before }, "kept for 5m0s"},
		{4 * time.Minute, 10, func(before int) bool { return wanted == before }, "kept for 5m0s"},
		{6 * time.Minute, 10, func(before int) bool { return wanted < before && wanted > 0 }, "needed"},
		{7 * time.Minute, 0, func(before int) bool { return wanted == before }, "kept"},
		{20 * time.Minute, 0, func(int) bool { return wanted == 0 }, "0 needed"},
	} {
		before := wanted
		mem, d = Decide(mem, seen(step.after, step.rate, wanted), &m, target, Limits{})
		wanted = d.Replicas
		if !step.want(before) || !strings.Contains(d.Reason, step.says) || !d.Kept {
			t.Errorf("step %d: %d, %+v", i, before, d)
		}
	}
	scarce := seen(time.Hour, 10, 1)
	scarce.Lead = time.Hour
	mem, _ = Decide(Memory{}, scarce, &m, target, Limits{})
	scarce.Now, scarce.Ahead.Rate = start.Add(2*time.Hour), 0
	if _, d := Decide(mem, scarce, &m, target, Limits{}); d.Replicas == 0 || !strings.Contains(d.Reason, "kept for 2h0m0s") {
		t.Errorf("what takes an hour to get is given back after one: %+v", d)
	}
}

func TestDecideLimits(t *testing.T) {
	m := Simulated
	for name, tc := range map[string]struct {
		rate float64
		l    Limits
		want int
		kept bool
		says string
	}{
		"most":    {1000, Limits{Max: 7}, 7, false, "no more than 7"},
		"budget":  {1000, Limits{Max: 7, Budget: 3}, 3, false, "no more than 3"},
		"least":   {0, Limits{Min: 2}, 2, true, "no fewer than 2"},
		"no load": {0, Limits{}, 0, true, "0 needed"},
	} {
		_, d := Decide(Memory{}, seen(0, tc.rate, 1), &m, target, tc.l)
		if d.Replicas != tc.want || d.Kept != tc.kept || !strings.Contains(d.Reason, tc.says) {
			t.Errorf("%s: %+v", name, d)
		}
	}
	unknown := seen(0, 1000, 5)
	unknown.Known = false
	if _, d := Decide(Memory{}, unknown, &m, target, Limits{}); d.Replicas != 5 || !strings.Contains(d.Reason, "unknown") {
		t.Errorf("unknown load: %+v", d)
	}
}

// TestDecideProperties: limits are never passed; more load never asks for less; with a constant load the count settles at once and stays.
func TestDecideProperties(t *testing.T) {
	m := Simulated
	rapid.Check(t, func(t *rapid.T) {
		l := Limits{Min: rapid.IntRange(0, 3).Draw(t, "min"), Max: rapid.IntRange(0, 20).Draw(t, "max"), Budget: rapid.IntRange(0, 30).Draw(t, "budget")}
		if l.Max > 0 {
			l.Max = max(l.Max, l.Min)
		}
		var a, b Memory
		wanted, wantedMore := 1, 1
		for i := range rapid.IntRange(1, 30).Draw(t, "steps") {
			in := seen(time.Duration(i)*time.Minute, 0, wanted)
			in.Ahead = anyLoad(t)
			in.Known = rapid.IntRange(0, 9).Draw(t, "known") > 0
			in.Lead = time.Duration(rapid.IntRange(0, 1000).Draw(t, "lead")) * time.Second
			busier := in
			busier.Wanted = wantedMore
			busier.Ahead.Rate *= 2
			var da, db Decision
			a, da = Decide(a, in, &m, target, l)
			b, db = Decide(b, busier, &m, target, l)
			if wanted, wantedMore = da.Replicas, db.Replicas; db.Replicas < da.Replicas {
				t.Fatalf("step %d: twice the load asks for %d, not %d", i, db.Replicas, da.Replicas)
			}
			if da.Replicas > l.most() || da.Replicas < min(l.Min, l.most()) || da.Reason == "" {
				t.Fatalf("step %d: %+v in %+v", i, da, l)
			}
		}
		in := seen(time.Hour, 0, wanted)
		in.Ahead = anyLoad(t)
		var last Decision
		for i := range 10 {
			in.Now = in.Now.Add(30 * time.Minute)
			in.Lead = 10 * time.Minute
			in.Wanted = wanted
			var d Decision
			a, d = Decide(a, in, &m, target, l)
			wanted = d.Replicas
			if i > 1 && d.Replicas != last.Replicas {
				t.Fatalf("with a constant load: %d, then %d", last.Replicas, d.Replicas)
			}
			last = d
		}
	})
}
