package ledger

import (
	"strings"
	"testing"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/statefile"
	"github.com/penstock/penstock/scheduler/statefile/crashfs"
)

// filled is a ledger on disk with one of everything, its controller gone.
func filled(t testing.TB) *crashfs.FS {
	t.Helper()
	l, fsys := newHeld(t)
	mustApply(t, l, deploymentFile("qwen", 1, "one"))
	mustApply(t, l, deploymentFile("qwen", 1, "two"))
	mustApply(t, l, deploymentFile("tiny", 1, "one"))
	mustPut(t, l, launchOf("qwen", "l1", 2))
	mustPut(t, l, launchOf("tiny", "l2", 1))
	for _, id := range []cluster.LaunchID{"l2", "l1"} {
		if _, err := l.Admit(id, "run", false); err != nil {
			t.Fatal(err)
		}
	}
	return fsys
}

func overwrite(t testing.TB, fsys *crashfs.FS, path string, data []byte) {
	t.Helper()
	if err := statefile.Write(fsys, path, data); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedFiles damages one file: it is named, and nothing else is lost.
func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	const (
		counters = "/intent/1/counters.json"
		launch   = "/intent/1/launches/l1.json"
		record   = "/intent/1/deployments/qwen/state.json"
		current  = "/intent/1/deployments/qwen/revision-2.yaml"
		older    = "/intent/1/deployments/qwen/revision-1.yaml"
	)
	for _, c := range []struct {
		path, content string
		damaged       bool   // deployment qwen
		launches      string // left
		quarantined   string
	}{
		{counters, "", false, "l1 l2", "1_counters.json"},
		{launch, "{\"format\":1,\"lau", false, "l2", "1_launches_l1.json"},
		{launch, "\x00\x00\x00", false, "l2", "1_launches_l1.json"},
		{launch, `{"format":1,"launch":{"id":"l7","phase":"intended"}}`, false, "l2", "1_launches_l1.json"},
		{launch, `{"format":1,"launch":{"id":"l1","phase":"resting"}}`, false, "l2", "1_launches_l1.json"},
		{launch, `{"format":1,"launch":{"id":"l1","phase":"intended","epoch":18446744073709551615}}`, false, "l2", "1_launches_l1.json"},
		{counters, `{"format":1,"epoch":18446744073709551615}`, false, "l1 l2", "1_counters.json"},
		{launch, `{"launch":{"id":"l1","phase":"intended"}}`, false, "l2", "1_launches_l1.json"},
		{record, "", true, "l1 l2", ""},
		{record, `{"format":1,"name":"tiny"}`, true, "l1 l2", ""},
		{record, `{"format":1,"name":"qwen"}`, true, "l1 l2", ""},
		{record, `{"format":1,"name":"qwen","current":1,"revisions":[{"number":0},{"number":1}]}`, true, "l1 l2", ""},
		{record, `{"format":1,"name":"qwen","current":1,"revisions":[{"number":1}],"scale":{"mixed":-1}}`, true, "l1 l2", ""},
		{current, "apiVersion: penstock/v1\n", true, "l1 l2", ""},
		{older, "", false, "l1 l2", ""},
		{"/terms/1", "{", false, "l1 l2", "-"},
	} {
		fsys := filled(t)
		overwrite(t, fsys, c.path, []byte(c.content))
		l := held(t, testOptions(fsys))
		what := c.path + " with " + c.content
		if c.quarantined != "-" {
			checkProblem(t, what, l, c.path)
		}
		d := mustGet(t, l, "qwen")
		if (d.Damaged != "") != c.damaged || d.Name != "qwen" {
			t.Errorf("%s: deployment is %+v", what, d)
		}
		if got := ids(l); got != c.launches {
			t.Errorf("%s: launches %s, want %s", what, got, c.launches)
		}
		if mustGet(t, l, "tiny").Revision != 1 {
			t.Errorf("%s: the other deployment is lost", what)
		}
		if _, err := fsys.Read("/quarantine/"+c.quarantined, maxRecord); len(c.quarantined) > 1 && err != nil {
			t.Errorf("%s: %v", what, err)
		}
		mustPut(t, l, launchOf("tiny", "l9", 1))
		if e, err := l.Admit("l9", "run", false); err != nil || e <= 2 {
			t.Errorf("%s: epoch %d after 2: %v", what, e, err)
		}
		checkRepair(t, what, l, fsys)
	}
}

func checkProblem(t *testing.T, what string, l *Ledger, path string) {
	t.Helper()
	problems := l.Problems()
	if len(problems) != 1 || problems[0].Path != path || problems[0].Err == nil {
		t.Errorf("%s: problems %v", what, problems)
	}
	for _, e := range l.Events(0) {
		if e.Kind == "error" && strings.Contains(e.Message, path) {
			return
		}
	}
	t.Errorf("%s: no event says so", what)
}

// checkRepair: applying the file again makes a damaged deployment whole, under a number that was never used.
func checkRepair(t *testing.T, what string, l *Ledger, fsys *crashfs.FS) {
	t.Helper()
	d := mustGet(t, l, "qwen")
	if d.Damaged != "" {
		wantErr(t, what+": scale", l.SetScale("qwen", jobspecs.Mixed, 2), ErrDamaged)
		_, err := l.Revision("qwen", 2)
		wantErr(t, what+": revision", err, ErrDamaged)
	}
	rev, changed, err := l.Apply(deploymentFile("qwen", 1, "three"), "")
	if rev != 3 || !changed || err != nil {
		t.Errorf("%s: repaired as revision %d, %v, %v", what, rev, changed, err)
	}
	next := held(t, testOptions(fsys))
	if d := mustGet(t, next, "qwen"); d.Damaged != "" || d.Revision != 3 {
		t.Errorf("%s: after the repair: %+v", what, d)
	}
}

// TestNewerFormatsAreRefused: an older release must not touch what it does not understand.
func TestNewerFormatsAreRefused(t *testing.T) {
	t.Parallel()
	for _, path := range []string{
		"/intent/1/counters.json", "/intent/1/launches/l1.json", "/intent/1/deployments/qwen/state.json", "/terms/1",
	} {
		fsys := filled(t)
		overwrite(t, fsys, path, []byte(`{"format":2}`))
		before := fsys.Steps()
		l, err := Open("/", testOptions(fsys))
		if err == nil {
			_, err = l.Acquire(t.Context(), holder("old release"))
		}
		wantErr(t, path, err, ErrNewerFormat)
		if _, err := fsys.Read(path, maxRecord); err != nil {
			t.Error(err)
		}
		if names, _ := fsys.List("/" + intentDir); len(names) != 1 {
			t.Errorf("%s: it has written %v in %d steps", path, names, fsys.Steps()-before)
		}
	}
}

// FuzzRecords opens a ledger in which one file holds anything: no panic, and either it is refused as newer or
// everything else works.
func FuzzRecords(f *testing.F) {
	paths := []string{
		"/intent/1/counters.json", "/intent/1/launches/l1.json", "/intent/1/deployments/qwen/state.json",
		"/intent/1/deployments/qwen/revision-2.yaml", "/terms/1", "/terms/1.beat", "/events.jsonl",
	}
	for i, p := range paths {
		fsys := filled(f)
		data, err := fsys.Read(p, maxRecord)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), data)
		f.Add(uint8(i), data[:len(data)/2])
	}
	f.Add(uint8(2), []byte(`{"format":1,"name":"qwen","current":7,"revisions":[{"number":-1},{"number":7}],"scale":{"mixed":-4}}`))
	f.Add(uint8(1), []byte(`{"format":1,"launch":{"id":"l1","phase":"ended","epoch":18446744073709551615}}`))
	whole := filled(f)
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		fsys := whole.Killed()
		overwrite(t, fsys, paths[int(which)%len(paths)], data)
		l, err := Open("/", testOptions(fsys))
		if err == nil {
			_, err = l.Acquire(t.Context(), holder("next"))
		}
		if err != nil {
			wantErr(t, "open", err, ErrNewerFormat)
			return
		}
		if mustGet(t, l, "tiny").Revision != 1 || l.Term() < 2 {
			t.Errorf("the rest is lost: %+v, term %d", mustGet(t, l, "tiny"), l.Term())
		}
		if _, err := l.Admit("l2", "run", false); err != nil {
			t.Error(err)
		}
		mustApply(t, l, deploymentFile("qwen", 1, "three"))
	})
}
