package admit

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// served takes n tickets out, a second apart, and gives their IDs.
func served(l *Line, now time.Time, n int) (ids []string) {
	for i := range n {
		t, ok := l.Next(now.Add(time.Duration(i) * time.Second))
		if !ok {
			break
		}
		ids = append(ids, t.ID)
	}
	return ids
}

func add(t *testing.T, l *Line, now time.Time, tickets ...Ticket) {
	t.Helper()
	for _, k := range tickets {
		if v, out := l.Add(k, now); !v.OK || out != nil {
			t.Fatalf("%s: %+v, out: %v", k.ID, v, out)
		}
	}
}

func TestLineOrder(t *testing.T) {
	for name, tc := range map[string]struct {
		tickets []Ticket
		want    []string
	}{
		"first come, first served": {[]Ticket{{ID: "1", Key: "a", Cost: 9}, {ID: "2", Key: "a", Cost: 1}}, []string{"1", "2"}},
		"one's many do not hold up another's one": {[]Ticket{
			{ID: "a1", Key: "a", Cost: 10}, {ID: "a2", Key: "a", Cost: 10}, {ID: "a3", Key: "a", Cost: 10}, {ID: "b1", Key: "b", Cost: 10},
		}, []string{"a1", "b1", "a2", "a3"}},
		"long prompts do not hold up short ones of others": {[]Ticket{
			{ID: "long1", Key: "a", Cost: 1000}, {ID: "long2", Key: "a", Cost: 1000}, {ID: "s1", Key: "b", Cost: 1}, {ID: "s2", Key: "b", Cost: 1}, {ID: "s3", Key: "b", Cost: 1},
		}, []string{"long1", "s1", "s2", "s3", "long2"}},
		"nor short ones a long one for ever": {[]Ticket{
			{ID: "long", Key: "a", Cost: 3}, {ID: "s1", Key: "b", Cost: 1}, {ID: "s2", Key: "b", Cost: 1}, {ID: "s3", Key: "b", Cost: 1}, {ID: "s4", Key: "b", Cost: 1},
		}, []string{"long", "s1", "s2", "s3", "s4"}},
		"twice the weight": {[]Ticket{
			{ID: "a1", Key: "a", Cost: 10},
			{ID: "a2", Key: "a", Cost: 10},
			{ID: "a3", Key: "a", Cost: 10},
			{ID: "b1", Key: "b", Cost: 10, Weight: 2},
			{ID: "b2", Key: "b", Cost: 10, Weight: 2},
			{ID: "b3", Key: "b", Cost: 10, Weight: 2},
			{ID: "b4", Key: "b", Cost: 10, Weight: 2},
		}, []string{"a1", "b1", "b2", "a2", "b3", "b4", "a3"}},
		"priority": {[]Ticket{{ID: "1", Key: "a"}, {ID: "2", Key: "a", Priority: 1}, {ID: "3", Key: "b", Priority: 1}}, []string{"2", "3", "1"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := NewLine(Bounds{})
			add(t, l, start, tc.tickets...)
			if got := served(l, start, 10); !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
			if l.Len() != 0 || l.Cost() != 0 {
				t.Errorf("%d wait, cost %g", l.Len(), l.Cost())
			}
		})
	}
}

func TestLinePatience(t *testing.T) {
	l := NewLine(Bounds{Patience: time.Minute})
	add(t, l, start, Ticket{ID: "old", Key: "a", Priority: -1})
	add(t, l, start.Add(50*time.Second), Ticket{ID: "young", Key: "b", Priority: 5})
	if got := served(l, start.Add(60*time.Second), 2); !slices.Equal(got, []string{"old", "young"}) {
		t.Errorf("got %v", got)
	}
}

func TestLineFull(t *testing.T) {
	l := NewLine(Bounds{Requests: 3, PerKey: 3})
	add(t, l, start, Ticket{ID: "a1", Key: "a"}, Ticket{ID: "a2", Key: "a"}, Ticket{ID: "a3", Key: "a"})
	if v, _ := l.Add(Ticket{ID: "a4", Key: "a"}, start); v.OK || v.Limit != "waiting requests of one key" || v.RetryAfter <= 0 {
		t.Errorf("a fourth of one key: %+v", v)
	}
	if v, out := l.Add(Ticket{ID: "b1", Key: "b"}, start); !v.OK || out == nil || out.ID != "a3" {
		t.Errorf("another key's first: %+v, out %v", v, out)
	}
	if v, out := l.Add(Ticket{ID: "c1", Key: "c"}, start); !v.OK || out == nil || out.ID != "a2" {
		t.Errorf("a third key's first: %+v, out %v", v, out)
	}
	if v, out := l.Add(Ticket{ID: "d1", Key: "d"}, start); v.OK || out != nil {
		t.Errorf("a fourth key's first, where each has one: %+v, out %v", v, out)
	}
	if got := served(l, start, 5); !slices.Equal(got, []string{"a1", "b1", "c1"}) {
		t.Errorf("got %v", got)
	}
}

func TestLineLeavers(t *testing.T) {
	l := NewLine(Bounds{})
	add(t, l, start, Ticket{ID: "1", Key: "a", Cost: 100}, Ticket{ID: "2", Key: "a", Deadline: start.Add(time.Second)}, Ticket{ID: "3", Key: "a"}, Ticket{ID: "4", Key: "b", Cost: 50})
	if v, _ := l.Add(Ticket{ID: "late", Deadline: start}, start); v.OK {
		t.Error("one whose deadline has passed was let in")
	}
	if !l.Cancel("1") || l.Cancel("1") {
		t.Error("cancel")
	}
	if gone := l.Expire(start.Add(time.Second)); len(gone) != 1 || gone[0].ID != "2" {
		t.Errorf("expired: %v", gone)
	}
	if got := served(l, start.Add(time.Second), 3); !slices.Equal(got, []string{"3", "4"}) {
		t.Errorf("got %v", got)
	}
}

func TestRetryAfterIsTheLinesLength(t *testing.T) {
	l := NewLine(Bounds{})
	for i := range 200 {
		add(t, l, start, Ticket{ID: fmt.Sprint(i), Key: "a", Cost: 10})
	}
	served(l, start, 60) // ten a second
	if got := l.RetryAfter(start.Add(59 * time.Second)); got < 120*time.Second || got > 160*time.Second {
		t.Errorf("140 tickets wait and one leaves in a second, said is %s", got)
	}
}

// TestLineSharesByWeight: while all keys have something waiting, what each has got differs from its share by no more than one
// ticket of each, whatever the costs.
func TestLineSharesByWeight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := NewLine(Bounds{})
		weights := rapid.SliceOfN(rapid.IntRange(1, 4), 2, 5).Draw(t, "weights")
		left := make([]int, len(weights))
		largest := 0.0
		for k, w := range weights {
			for i, cost := range rapid.SliceOfN(rapid.IntRange(1, 100), 5, 40).Draw(t, "costs") {
				l.Add(Ticket{ID: fmt.Sprint(k, "/", i), Key: fmt.Sprint(k), Weight: float64(w), Cost: float64(cost)}, start)
				left[k]++
				largest = max(largest, float64(cost))
			}
		}
		got := make([]float64, len(weights))
		for {
			k, _ := l.Next(start)
			var n int
			_, _ = fmt.Sscan(k.Key, &n)
			got[n] += k.Cost / k.Weight
			for a := range got {
				for b := range got {
					if d := got[a] - got[b]; d > 2*largest {
						t.Fatalf("keys %d and %d have got %v by weight, tickets are up to %g", a, b, got, largest)
					}
				}
			}
			if left[n]--; left[n] == 0 {
				return
			}
		}
	})
}

// TestLineLosesNothing: whatever is done, each ticket leaves once.
func TestLineLosesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := NewLine(Bounds{Requests: rapid.IntRange(0, 6).Draw(t, "bound"), Cost: float64(rapid.IntRange(0, 50).Draw(t, "cost")), Patience: 5 * time.Second})
		now := start
		in := map[string]bool{}
		leave := func(id string) {
			if !in[id] {
				t.Fatalf("%s leaves and was not there", id)
			}
			delete(in, id)
		}
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 2).Draw(t, "s")) * time.Second)
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				if k, ok := l.Next(now); ok {
					leave(k.ID)
				} else if len(in) > 0 {
					t.Fatal("nobody goes next, but some wait")
				}
			case 1:
				for _, k := range l.Expire(now) {
					leave(k.ID)
				}
			case 2:
				for id := range in {
					l.Cancel(id)
					leave(id)
					break
				}
			default:
				k := Ticket{
					ID: fmt.Sprint(i), Key: fmt.Sprint(rapid.IntRange(0, 2).Draw(t, "key")), Cost: float64(rapid.IntRange(0, 20).Draw(t, "c")),
					Priority: rapid.IntRange(0, 1).Draw(t, "p"), Deadline: now.Add(time.Duration(rapid.IntRange(1, 9).Draw(t, "d")) * time.Second),
				}
				v, out := l.Add(k, now)
				if v.OK {
					in[k.ID] = true
				} else if v.RetryAfter < time.Second || v.Limit == "" {
					t.Fatalf("refused with %+v", v)
				}
				if out != nil {
					leave(out.ID)
				}
			}
			if l.Len() != len(in) {
				t.Fatalf("%d wait, want %d", l.Len(), len(in))
			}
		}
	})
}
