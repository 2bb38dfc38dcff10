package process

import (
	"testing"
)

// TestValues: what the tree's processes hold in a variable is found, and nothing of others.
func TestValues(t *testing.T) {
	p, err := Start(Spec{
		Argv: []string{"sleep", "60"}, Env: []string{"PATH=/usr/bin:/bin", "SLURM_STEP_ID=7"}, Mark: Mark{Launch: "values", Run: "r", Rank: "0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Stop(t.Context(), 0) }()
	got, err := p.Values("SLURM_STEP_ID")
	if err != nil || len(got) != 1 || got[0] != "7" {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := p.Values("NO_SUCH_VARIABLE"); err != nil || len(got) != 0 {
		t.Errorf("got %q, %v", got, err)
	}
}
