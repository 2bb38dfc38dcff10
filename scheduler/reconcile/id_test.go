package reconcile

import (
	"crypto/rand"
	"errors"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

func TestNewLaunchID(t *testing.T) {
	form := regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?-(prefill|decode|mixed)-[0-9]+-[a-km-np-z2-9]{8}$`)
	seen := map[cluster.LaunchID]bool{}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?`).Draw(t, "deployment")
		role := rapid.SampledFrom(jobspecs.RoleKinds).Draw(t, "role")
		id, err := NewLaunchID(rand.Reader, name, role, rapid.IntRange(0, 99999).Draw(t, "index"))
		if err != nil || len(id) > 40 || !form.MatchString(string(id)) || seen[id] {
			t.Fatalf("%q: %v", id, err)
		}
		seen[id] = true
	})
	if id, err := NewLaunchID(strings.NewReader("aaaaaaaa"), "qwen", jobspecs.Decode, 0); id != "qwen-decode-0-bbbbbbbb" || err != nil {
		t.Errorf("%q, %v", id, err)
	}
	if id, err := NewLaunchID(iotest.ErrReader(errors.New("no entropy")), "qwen", jobspecs.Decode, 0); err == nil {
		t.Errorf("a token without randomness: %q", id)
	}
}
