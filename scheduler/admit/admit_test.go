package admit

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestDecide(t *testing.T) {
	type step struct {
		after  time.Duration
		tokens uint64
		want   string // limit that refuses, "" = admitted
		retry  time.Duration
		settle bool // the oldest open request first, with used tokens
		used   uint64
	}
	for name, tc := range map[string]struct {
		limits Limits
		steps  []step
	}{
		"no limits": {Limits{}, []step{{tokens: 1 << 40}, {tokens: 1 << 40}}},
		"requests: a minute's worth at once, then one each 30 s": {Limits{RequestsPerMinute: 2}, []step{
			{},
			{},
			{want: "requests per minute", retry: 30 * time.Second},
			{after: 29 * time.Second, want: "requests per minute", retry: time.Second},
			{after: time.Second},
			{want: "requests per minute", retry: 30 * time.Second},
		}},
		"concurrency": {Limits{Concurrency: 1}, []step{
			{}, {want: "requests at a time", retry: time.Second}, {settle: true},
		}},
		"tokens: the estimate is taken, the rest is given back": {Limits{TokensPerMinute: 600}, []step{
			{tokens: 500},
			{tokens: 200, want: "tokens per minute", retry: 10 * time.Second},
			{settle: true, used: 100, tokens: 200},
			{tokens: 400, want: "tokens per minute", retry: 10 * time.Second},
		}},
		"tokens: debt is paid first": {Limits{TokensPerMinute: 60}, []step{
			{tokens: 10},
			{settle: true, used: 180, want: "tokens per minute", retry: 2 * time.Minute},
			{after: 2 * time.Minute},
		}},
		"tokens: more than the bucket holds needs a full bucket": {Limits{TokensPerMinute: 60}, []step{
			{tokens: 1}, {tokens: 1000, want: "tokens per minute", retry: time.Second}, {after: time.Second, tokens: 1000},
		}},
		"a clock set back stops nobody for longer": {Limits{RequestsPerMinute: 1}, []step{
			{}, {after: -time.Hour, want: "requests per minute", retry: time.Minute}, {after: time.Minute},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var s State
			var open []Request
			now := start
			for i, st := range tc.steps {
				now = now.Add(st.after)
				if st.settle {
					s = Settle(s, tc.limits, open[0], st.used, now)
					open = open[1:]
				}
				r := Request{Tokens: st.tokens}
				next, v := Decide(s, tc.limits, r, now)
				s = next
				if v.Limit != st.want || v.OK != (st.want == "") || v.RetryAfter != st.retry {
					t.Fatalf("step %d: %+v", i+1, v)
				}
				if v.OK {
					open = append(open, r)
				}
			}
		})
	}
}

// TestNeverMore: in no history does a key get more than its limits, and who waits as told is admitted.
func TestNeverMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Limits{
			RequestsPerMinute: rapid.Uint32Range(0, 20).Draw(t, "rpm"),
			TokensPerMinute:   rapid.Uint64Range(0, 500).Draw(t, "tpm"),
			Concurrency:       rapid.Uint32Range(0, 4).Draw(t, "concurrency"),
		}
		var s State
		var open []Request
		var admitted, used float64
		now := start
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 20_000).Draw(t, "ms")) * time.Millisecond)
			if len(open) > 0 && rapid.Bool().Draw(t, "settle") {
				u := rapid.Uint64Range(0, open[0].Tokens).Draw(t, "used")
				s = Settle(s, l, open[0], u, now)
				used -= float64(open[0].Tokens - u)
				open = open[1:]
				continue
			}
			r := Request{Tokens: rapid.Uint64Range(0, l.TokensPerMinute).Draw(t, "tokens")}
			next, v := Decide(s, l, r, now)
			if !v.OK {
				if v.RetryAfter < time.Second || v.Limit == "" {
					t.Fatalf("refused without reason or time: %+v", v)
				}
				later, again := Decide(next, Limits{l.RequestsPerMinute, l.TokensPerMinute, 0}, r, now.Add(v.RetryAfter))
				if v.Limit != "requests at a time" && again.Limit == v.Limit {
					t.Fatalf("told to wait %s for %s, then told %+v (%+v)", v.RetryAfter, v.Limit, again, later)
				}
				s = next
				continue
			}
			s = next
			open = append(open, r)
			admitted++
			used += float64(r.Tokens)
			minutes := now.Sub(start).Minutes()
			if m := float64(l.RequestsPerMinute); m > 0 && admitted > m+m*minutes+1e-6 {
				t.Fatalf("%v requests in %v minutes at %v a minute", admitted, minutes, m)
			}
			if m := float64(l.TokensPerMinute); m > 0 && used > m+m*minutes+1e-6 {
				t.Fatalf("%v tokens in %v minutes at %v a minute", used, minutes, m)
			}
			if l.Concurrency > 0 && len(open) > int(l.Concurrency) {
				t.Fatalf("%d open of %d", len(open), l.Concurrency)
			}
		}
	})
}
