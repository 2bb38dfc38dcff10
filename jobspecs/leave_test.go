package jobspecs

import (
	"testing"
	"time"
)

func TestLeave(t *testing.T) {
	t.Parallel()
	end := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	tests := map[string]struct {
		life, drain time.Duration // life 0 = the start is not known
		from, by    time.Duration // before the end
	}{
		"a day":                 {24 * time.Hour, time.Minute, 70 * time.Second, 10 * time.Second},
		"nobody knows":          {0, time.Minute, 70 * time.Second, 10 * time.Second},
		"two minutes":           {2 * time.Minute, time.Minute, 36 * time.Second, 6 * time.Second},
		"a long drain":          {4 * time.Hour, 8 * time.Hour, time.Hour + 10*time.Second, 10 * time.Second},
		"no drain":              {time.Hour, 0, 10 * time.Second, 10 * time.Second},
		"started after its end": {-time.Hour, time.Minute, 0, 0},
	}
	for name, test := range tests {
		start := time.Time{}
		if test.life != 0 {
			start = end.Add(-test.life)
		}
		from, by := Serving{DrainTimeout: Duration(test.drain)}.Leave(start, end)
		if end.Sub(from) != test.from || end.Sub(by) != test.by {
			t.Errorf("%s: from %s to %s before the end, want %s and %s", name, end.Sub(from), end.Sub(by), test.from, test.by)
		}
	}
}
