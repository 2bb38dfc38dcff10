package agent

import (
	"errors"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/identity"
)

func TestOrphaned(t *testing.T) {
	t.Parallel()
	const limit = time.Hour
	ago := func(d time.Duration) time.Time { return noon.Add(-d) }
	tests := map[string]struct {
		joined, controller, request time.Time
		open                        int
		want                        bool
	}{
		"fresh":                         {joined: ago(time.Minute)},
		"nobody ever":                   {joined: ago(limit), want: true},
		"controller a while ago":        {joined: ago(9 * limit), controller: ago(limit - 1)},
		"controller too long ago":       {joined: ago(9 * limit), controller: ago(limit), want: true},
		"requests without a controller": {joined: ago(9 * limit), controller: ago(8 * limit), request: ago(time.Minute)},
		"a long stream":                 {joined: ago(9 * limit), open: 1},
	}
	for name, test := range tests {
		if got := orphaned(noon, test.joined, test.controller, test.request, test.open, limit); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if orphaned(noon, ago(9*limit), time.Time{}, time.Time{}, 0, 0) {
		t.Error("a limit of 0 is none")
	}
}

func TestDrainsInTime(t *testing.T) {
	t.Parallel()
	r := &run{startAt: noon.Add(-time.Hour), adm: &admission{}, end: newEnding(), opts: Options{EndsAt: noon}}
	r.adm.deployment.Serving.DrainTimeout = jobspecs.Duration(time.Minute)
	if from, by := r.leave(); noon.Sub(from) != 70*time.Second || noon.Sub(by) != 10*time.Second {
		t.Errorf("drain from %s to %s before the end", noon.Sub(from), noon.Sub(by))
	}
	r.end.since, r.end.within = noon.Add(-30*time.Second), time.Minute
	if got := r.drainBy(); noon.Sub(got) != 10*time.Second {
		t.Errorf("a drain that is asked for late ends %s before the job's time is over", noon.Sub(got))
	}
	r.opts.EndsAt = time.Time{}
	if got := r.drainBy(); got.Sub(noon) != 30*time.Second {
		t.Errorf("a drain without a time limit ends %s after noon", got.Sub(noon))
	}
	for _, test := range []struct{ total, grace, want time.Duration }{
		{time.Minute, 10 * time.Second, 10 * time.Second}, {time.Minute, 30 * time.Second, 15 * time.Second}, {0, time.Second, 0},
	} {
		if got := stopShare(test.total, test.grace); got != test.want {
			t.Errorf("of a drain of %s with a grace of %s: %s, want %s", test.total, test.grace, got, test.want)
		}
	}
}

func TestEndingOnlyGetsMoreUrgent(t *testing.T) {
	t.Parallel()
	e := newEnding()
	e.drain("first", 0)
	if left := time.Until(e.deadline(time.Minute)); left > time.Minute || left < 50*time.Second {
		t.Errorf("deployment's deadline: %s left", left)
	}
	e.drain("second", 10*time.Second)
	if left := time.Until(e.deadline(time.Minute)); left > 10*time.Second {
		t.Errorf("after a shorter one: %s left", left)
	}
	e.drain("third", time.Hour)
	if left := time.Until(e.deadline(time.Minute)); left > 10*time.Second {
		t.Errorf("a longer one must not count: %s left", left)
	}
	if why, err := e.cause(); why != "first" || err != nil {
		t.Errorf("cause %q, %v", why, err)
	}
	e.stop("fenced", ErrRefused)
	e.stop("again", nil)
	if why, err := e.cause(); why != "fenced" || !errors.Is(err, ErrRefused) {
		t.Errorf("cause %q, %v", why, err)
	}
}

func TestTermsNeverGoBack(t *testing.T) {
	t.Parallel()
	ca := testCA(t)
	c, err := newController(Options{Join: identity.JoinFile{CAPEM: string(ca.PEM())}})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		term uint64
		ok   bool
	}{{3, true}, {3, true}, {5, true}, {4, false}, {5, true}, {0, false}} {
		if err := c.observe(test.term); (err == nil) != test.ok || !test.ok && !errors.Is(err, errOldTerm) {
			t.Errorf("term %d: %v", test.term, err)
		}
	}
}

func TestBackoffGrowsAndStaysBounded(t *testing.T) {
	t.Parallel()
	b := backoff{longest: 10 * time.Second}
	for i, most := range []time.Duration{
		200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond, 1600 * time.Millisecond,
		3200 * time.Millisecond, 6400 * time.Millisecond, 10 * time.Second, 10 * time.Second,
	} {
		if got := b.next(); got < most/2 || got > most {
			t.Errorf("wait %d: %s, want between %s and %s", i, got, most/2, most)
		}
	}
}

// A certificate that ran out while the controller was away is no reason to give up: the join token gets a new one.
func TestExpiredCertificateJoinsAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.controller.ttl = 3 * time.Second
	a := w.start(nil).reach(started)
	w.controller.set(func() { w.controller.refuse = connect.NewError(connect.CodeUnavailable, errors.New("away")) })
	valid := time.Now().Add(3 * time.Second) // for a certificate that was renewed at the last moment
	w.controller.hangUp()
	for time.Now().Before(valid) {
		if closed(a.done) {
			t.Fatalf("ended: %v", a.err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.controller.set(func() { w.controller.refuse, w.controller.ttl = nil, time.Hour })
	eventually(t, "it joins again and reports", func() bool {
		w.controller.mu.Lock()
		defer w.controller.mu.Unlock()
		return w.controller.joins > 1 && len(w.controller.streams) > 0
	})
}
