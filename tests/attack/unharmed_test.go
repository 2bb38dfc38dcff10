package attack

import (
	"context"
	"testing"
)

// checkUnharmed: after all of that the same runs serve, give the same answers, and end cleanly.
func checkUnharmed(t *testing.T, s *siege) {
	ctx, cancel := context.WithTimeout(t.Context(), trickPatience)
	defer cancel()
	for _, at := range []string{s.client.URL, s.second} {
		if got := s.ask(t, at); got != s.answer {
			t.Errorf("HOLE: the answer has changed from %q to %q", s.answer, got)
		}
	}
	now, err := s.victim.Status(ctx)
	must(t, err)
	for i, d := range now.Deployments {
		for j, r := range d.Replicas {
			s.tried++
			was := s.before.Deployments[i].Replicas[j]
			if r.Launch != was.Launch || r.Epoch != was.Epoch || r.State != "ready" || r.Failures > 0 {
				t.Errorf("HOLE: replica %s was %+v and is %+v", r.Name, was, r)
			}
		}
	}
	s.victim.MustRun(ctx, t, "stop", "--all", "--wait")
	s.victim.MustRun(ctx, t, "serve", "--stop")
	s.rival.MustRun(ctx, t, "serve", "--stop")
}
