package agent

import (
	"testing"
	"time"
)

func TestRestarts(t *testing.T) {
	t.Parallel()
	const giveUp = -1 * time.Second
	type end struct {
		healthy time.Duration // between the first token and the end; negative = there was no token
		want    time.Duration
	}
	tests := map[string]struct {
		limit int
		ends  []end
	}{
		"crash loop":          {3, []end{{-1, time.Second}, {-1, 2 * time.Second}, {-1, 4 * time.Second}, {-1, giveUp}}},
		"no restarts allowed": {0, []end{{time.Hour, giveUp}}},
		"health forgives": {2, []end{
			{-1, time.Second}, {time.Minute, 2 * time.Second}, {10 * time.Minute, time.Second}, {0, 2 * time.Second}, {0, giveUp},
		}},
		"waits are bounded": {9, []end{
			{0, 1 * time.Second},
			{0, 2 * time.Second},
			{0, 4 * time.Second},
			{0, 8 * time.Second},
			{0, 16 * time.Second},
			{0, 32 * time.Second},
			{0, time.Minute},
			{0, time.Minute},
			{0, time.Minute},
			{0, giveUp},
		}},
	}
	for name, test := range tests {
		r := restarts{limit: test.limit}
		for i, end := range test.ends {
			var started time.Time
			if end.healthy >= 0 {
				started = noon.Add(-end.healthy)
			}
			got, stop := r.failed(noon, started)
			if stop {
				got = giveUp
			}
			if got != end.want {
				t.Errorf("%s: end %d: %s, want %s", name, i+1, got, end.want)
			}
		}
		if r.total != len(test.ends) {
			t.Errorf("%s: %d failures counted of %d", name, r.total, len(test.ends))
		}
	}
}
