package ledger

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/statefile"
	"github.com/penstock/penstock/scheduler/statefile/crashfs"
)

func say(l *Ledger, n int) {
	for i := range n {
		l.AppendEvent(&apiv1.Event{Kind: "test", Message: fmt.Sprint("event ", i)})
	}
}

// checkIDs: no gap and no double, in order.
func checkIDs(t *testing.T, events []*apiv1.Event, from, n int) {
	t.Helper()
	if len(events) != n {
		t.Fatalf("%d events, want %d", len(events), n)
	}
	for i, e := range events {
		if e.Id != uint64(from+i) {
			t.Fatalf("event %d has ID %d, want %d", i, e.Id, from+i)
		}
	}
}

func TestEventsAreNumbered(t *testing.T) {
	t.Parallel()
	l, fsys := newHeld(t) // the term is event 1
	e := &apiv1.Event{Kind: "test"}
	l.AppendEvent(e)
	if e.Id != 0 {
		t.Error("the caller's event was changed")
	}
	say(l, 4)
	checkIDs(t, l.Events(0), 1, 6)
	checkIDs(t, l.Events(2), 5, 2)
	if last := l.Events(1)[0]; last.Term != 1 || last.At == nil || last.Message != "event 3" {
		t.Errorf("got %v", last)
	}
	next := held(t, testOptions(fsys))
	say(next, 1)
	checkIDs(t, next.Events(0), 1, 8)
}

func TestEventsAreBounded(t *testing.T) {
	t.Parallel()
	o := testOptions(nil)
	o.KeepEvents, o.EventFileBytes = 20, 2000
	l, fsys := newHeldWith(t, o)
	say(l, 200)
	checkIDs(t, l.Events(0), 182, 20)
	for _, name := range []string{eventsFile, oldEventsFile} {
		data, err := fsys.Read("/"+name, 3000)
		if err != nil || len(data) == 0 {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
		}
	}
	o.FS = fsys
	again := opened(t, o)
	if got := again.Events(0); got[len(got)-1].Id != 201 {
		t.Errorf("after opening again the last is %d", got[len(got)-1].Id)
	}
}

func TestTornEventIsSkipped(t *testing.T) {
	t.Parallel()
	l, fsys := newHeld(t)
	say(l, 2)
	f, err := fsys.Append("/" + eventsFile)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte(`{"kind":"test","id":"9`)); err != nil {
		t.Fatal(err)
	}
	next := held(t, testOptions(fsys))
	say(next, 1)
	checkIDs(t, reopened(t, fsys).Events(0), 1, 5)
}

// TestFullDiskLosesEventsOnly: what is wanted is refused with the reason, events are counted as lost, and all goes on
// once there is space.
func TestFullDiskLosesEventsOnly(t *testing.T) {
	t.Parallel()
	l, fsys := newHeld(t)
	mustApply(t, l, deploymentFile("qwen", 1, "one"))
	before := dump(l)
	fsys.Before(func(s crashfs.Step) error {
		if s.Op == "create" || s.Op == "write" && !strings.HasSuffix(s.Path, beatSuffix) {
			return syscall.ENOSPC
		}
		return nil
	})
	_, _, err := l.Apply(deploymentFile("qwen", 1, "two"), "")
	wantErr(t, "apply", err, syscall.ENOSPC)
	wantErr(t, "put", l.PutLaunch(launchOf("qwen", "l1", 1)), syscall.ENOSPC)
	say(l, 3)
	if l.EventsLost() != 3 || len(l.Events(0)) != 4 {
		t.Errorf("%d lost, %d in memory", l.EventsLost(), len(l.Events(0)))
	}
	if err := l.nextBeat(1); err != nil {
		t.Errorf("a living controller looks dead on a full disk: %v", err)
	}
	if dump(l) != before {
		t.Errorf("memory has changed to\n%s", dump(l))
	}
	fsys.Before(nil)
	say(l, 1)
	mustApply(t, l, deploymentFile("qwen", 1, "two"))
	checkMemory(t, "afterwards", l, fsys)
	if got := reopened(t, fsys).Events(0); len(got) != 2 || got[1].Id != 5 {
		t.Errorf("on disk are %v", got)
	}
}

func TestFollow(t *testing.T) {
	t.Parallel()
	l, _ := newHeld(t)
	say(l, 3)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() { say(l, 20) })
	}
	past, next := l.Subscribe(ctx, 0)
	writers.Wait()
	all := past
	for len(all) < 84 {
		all = append(all, <-next)
	}
	checkIDs(t, all, 1, 84)
	cancel()
	if e, ok := <-next; ok {
		t.Errorf("after the end comes %v", e)
	}
}

func TestSlowFollowerIsDropped(t *testing.T) {
	t.Parallel()
	l, _ := newHeld(t)
	_, slow := l.Subscribe(t.Context(), 1)
	_, fast := l.Subscribe(t.Context(), 1)
	for range 2 {
		say(l, followerRoom)
		for range followerRoom {
			<-fast
		}
	}
	var got []*apiv1.Event
	for e := range slow {
		got = append(got, e)
	}
	checkIDs(t, got[:followerRoom], 2, followerRoom)
	if len(got) != followerRoom+1 || got[followerRoom].Kind != KindDropped {
		t.Errorf("%d events, the last is %v", len(got), got[len(got)-1])
	}
}

// TestEventsOnARealDisk: the same file, appended to by package os.
func TestEventsOnARealDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/state"
	for term := range 2 {
		l, err := Open(dir, Options{Alive: dead})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Acquire(t.Context(), holder(fmt.Sprint(term))); err != nil {
			t.Fatal(err)
		}
		say(l, 3)
	}
	l, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	checkIDs(t, l.Events(0), 1, 8)
	if _, err := statefile.ReadPrivate(dir+"/"+eventsFile, 1<<20); err != nil {
		t.Error(err)
	}
}
