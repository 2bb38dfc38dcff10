package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/statefile"
	"github.com/penstock/penstock/scheduler/statefile/crashfs"
)

func TestMain(m *testing.M) {
	childMain()
	goleak.VerifyTestMain(m)
}

// dead is a process that is known to be gone: its term is taken over at once.
func dead(Holder) (alive, known bool) { return false, true }

// clock counts seconds, one at each look, so that equal histories have equal times.
func clock() func() time.Time {
	var n atomic.Int64
	return func() time.Time { return time.Unix(1_700_000_000+n.Add(1), 0).UTC() }
}

func holder(nonce string) Holder {
	return Holder{Hostname: "login1", PID: 7, Nonce: nonce, StartedAt: time.Unix(1_700_000_000, 0).UTC()}
}

func testOptions(fsys statefile.FS) Options {
	return Options{FS: fsys, Now: clock(), Alive: dead}
}

// opened returns a ledger in the root of a file system, without a term.
func opened(t testing.TB, o Options) *Ledger {
	t.Helper()
	l, err := Open("/", o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// held returns a ledger that holds a term.
func held(t testing.TB, o Options) *Ledger {
	t.Helper()
	l := opened(t, o)
	if _, err := l.Acquire(t.Context(), holder(t.Name())); err != nil {
		t.Fatal(err)
	}
	return l
}

// reopened reads the same files again, as a process would that starts now.
func reopened(t testing.TB, fsys statefile.FS) *Ledger {
	t.Helper()
	return opened(t, testOptions(fsys))
}

func newHeld(t testing.TB) (*Ledger, *crashfs.FS) {
	t.Helper()
	return newHeldWith(t, testOptions(nil))
}

func newHeldWith(t testing.TB, o Options) (*Ledger, *crashfs.FS) {
	t.Helper()
	fsys := crashfs.New()
	o.FS = fsys
	return held(t, o), fsys
}

// deploymentFile is a small deployment; arg makes its content another.
func deploymentFile(name string, replicas int, arg string) jobspecs.Deployment {
	src := "apiVersion: penstock/v1\nname: " + name + "\nmodel: {id: org/model}\nengine: {kind: sim, args: [\"" + arg + "\"]}\n" +
		"roles: {mixed: {replicas: " + strconv.Itoa(replicas) + ", max: 8}}\n"
	d, err := jobspecs.Parse("test.yaml", []byte(src))
	if err != nil {
		panic(err)
	}
	return d
}

func mustApply(t testing.TB, l *Ledger, d jobspecs.Deployment) int {
	t.Helper()
	rev, _, err := l.Apply(d, "test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func launchOf(deployment string, id cluster.LaunchID, rev int) cluster.Launch {
	return cluster.Launch{
		ID: id, Deployment: deployment, Role: jobspecs.Mixed, Revision: rev, Cluster: jobspecs.LocalCluster, Nodes: 1,
		Placement: []cluster.Placement{{Node: "node0", GPUs: []string{"gpu0"}}}, Reason: "wanted",
	}
}

func mustPut(t testing.TB, l *Ledger, x cluster.Launch) {
	t.Helper()
	if err := l.PutLaunch(x); err != nil {
		t.Fatal(err)
	}
}

func toPhase(p cluster.LaunchPhase) func(*cluster.Launch) error {
	return func(x *cluster.Launch) error {
		x.Phase = p
		return nil
	}
}

// dump is everything that the ledger says is wanted, to compare two ledgers.
func dump(l *Ledger) string {
	var b strings.Builder
	for _, d := range l.Deployments() {
		spec := string(jobspecs.Encode(d.Spec))
		d.Spec = jobspecs.Deployment{}
		fmt.Fprintf(&b, "%s\n%s", asJSON(d), spec)
		for n := 1; n <= d.Revision; n++ {
			if old, err := l.Revision(d.Name, n); err == nil {
				fmt.Fprintf(&b, "revision %d %s\n", n, jobspecs.Hash(old))
			}
		}
	}
	for _, x := range l.Launches() {
		b.WriteString(asJSON(x) + "\n")
	}
	return b.String()
}

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func wantErr(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got error %v, want %v", what, got, want)
	}
}
