package ledger

import (
	"testing"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

func spec(t *testing.T, name string, replicas string) jobspecs.Deployment {
	t.Helper()
	d, err := jobspecs.Parse("test.yaml", []byte("apiVersion: penstock/v1\nname: "+name+"\nmodel: {id: org/model}\nengine: {kind: sim}\nroles: {mixed: {replicas: "+replicas+", max: 8}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestSmoke(t *testing.T) {
	dir := t.TempDir()
	l, err := Open(dir+"/state", Options{})
	if err != nil {
		t.Fatal(err)
	}
	h, err := ThisProcess(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	term, err := l.Acquire(t.Context(), h)
	if err != nil || term != 1 {
		t.Fatal(term, err)
	}
	rev, changed, err := l.Apply(spec(t, "qwen", "2"), "f")
	t.Log(rev, changed, err)
	if err := l.PutLaunch(cluster.Launch{ID: "l1", Deployment: "qwen", Role: "mixed", Revision: 1}); err != nil {
		t.Fatal(err)
	}
	e, err := l.Admit("l1", "r1", false)
	t.Log(e, err)
	l2, _ := Open(dir+"/state", Options{})
	h.Nonce = "x"
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	term, err = l2.Acquire(t.Context(), h)
	t.Log(term, err, l2.Deployments(), l2.Launches(), l2.Events(0))
}
