package jobspecs

import "testing"

func TestSbatchOption(t *testing.T) {
	t.Parallel()
	for option, want := range map[string]string{
		"--exclude=a,b": "exclude", "--exclusive": "exclusive", "--time 5": "time", "-p": "partition", "-pgpu": "partition",
		"-x a": "x", "-": "-", "--": "", "-N2": "nodes",
	} {
		if got := SbatchOption(option); got != want {
			t.Errorf("%s: %q, want %q", option, got, want)
		}
	}
}

// TestSbatchReasons: every reason belongs to an option that is refused.
func TestSbatchReasons(t *testing.T) {
	t.Parallel()
	for name := range sbatchReasons {
		if field, owned := ownedBySlurmSection[name]; !owned || field != "" {
			t.Errorf("--%s has a reason and is not refused without a field", name)
		}
	}
	for name, as := range sameReason {
		if _, owned := ownedBySlurmSection[name]; !owned || sbatchReasons[as] == "" {
			t.Errorf("--%s goes with --%s, which gives no reason", name, as)
		}
	}
}
