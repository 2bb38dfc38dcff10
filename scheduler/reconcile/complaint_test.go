package reconcile

import "testing"

func TestComplaint(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		lines []string
		want  string
	}{
		{nil, ""},
		{[]string{"INFO: 127.0.0.1 - POST /v1/completions 200 OK", "loading 30 %"}, ""},
		{[]string{"RuntimeError: CUDA out of memory.", "INFO: shutting down"}, ": RuntimeError: CUDA out of memory."},
		{[]string{"error: first", "  panic: second  "}, ": panic: second"},
		{[]string{"bind: address already in use: cannot listen"}, ": bind: address already in use: cannot listen"},
	} {
		if got := complaint(c.lines); got != c.want {
			t.Errorf("%q: got %q, want %q", c.lines, got, c.want)
		}
	}
}
