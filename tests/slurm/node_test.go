package slurm

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/installation"
	"github.com/penstock/penstock/tests/slurm/testbed"
	"github.com/penstock/penstock/tests/traffic"
)

// TestPowerCut: a node is gone at once, and nobody is told.
func TestPowerCut(t *testing.T) {
	slow(t)
	w := start(t, testbed.Options{}, apart(deployment("gpu", "12h")))
	w.traffic()
	victim := w.busiest()
	node := w.nodeOf(victim)
	w.tr.Mark()
	begin := time.Now()
	w.no(node.PowerOff(w.ctx))
	w.until("another job has taken the place", ready(2, victim.Launch))
	took := time.Since(begin)
	w.tr.Finished(w.ctx, traffic.Streams)
	w.no(node.PowerOn(w.ctx))
	w.finish(6, "node powered off", seconds("replaced after", took))
}

// TestLinkCut: a node can't be reached, and its replica lives on. Once the successor is there nobody sends to the cut copy, and
// it ends by itself after its orphan time, at the latest.
func TestLinkCut(t *testing.T) {
	slow(t)
	w := start(t, testbed.Options{}, apart(deployment("gpu", "12h", "serving: {orphanAfter: 90s}")))
	w.traffic()
	victim := w.busiest()
	node := w.nodeOf(victim)
	if n := len(w.engines(victim.Launch)); n != 1 {
		t.Fatalf("%d engines of %s run before the cut", n, victim.Launch)
	}
	w.tr.Mark()
	begin := time.Now()
	w.no(node.CutLink(w.ctx))
	w.until("another job has taken the place", ready(2, victim.Launch))
	took := time.Since(begin)
	alive := len(w.engines(victim.Launch))
	w.note("the cut copy has %d engines", alive)
	w.no(node.HealLink(w.ctx))
	healed := time.Now()
	w.untilTrue("the cut copy has ended", func() bool { return len(w.engines(victim.Launch)) == 0 })
	gone := time.Since(healed)
	w.tr.Finished(w.ctx, traffic.Streams)
	w.finish(7, "link of a node cut, healed after the replacement", seconds("replaced after", took)+", "+seconds("old copy ended after the healing by", gone))
}

// TestOrphan: a node stays cut off, and its replica ends itself after its orphan time.
func TestOrphan(t *testing.T) {
	slow(t)
	w := start(t, testbed.Options{}, apart(deployment("gpu", "12h", "serving: {orphanAfter: 60s}")))
	w.traffic()
	victim := w.busiest()
	node := w.nodeOf(victim)
	if n := len(w.engines(victim.Launch)); n != 1 {
		t.Fatalf("%d engines of %s run before the cut", n, victim.Launch)
	}
	w.tr.Mark()
	begin := time.Now()
	w.no(node.CutLink(w.ctx))
	w.until("another job has taken the place", ready(2, victim.Launch))
	w.untilTrue("the cut copy has ended", func() bool { return len(w.engines(victim.Launch)) == 0 })
	took := time.Since(begin)
	w.tr.Finished(w.ctx, traffic.Streams)
	w.no(node.HealLink(w.ctx))
	w.finish(8, "link of a node cut for good, orphan time 60 s", seconds("cut copy ended itself after", took))
}

// TestSlurmdRestarted: slurmd is killed and comes back; its jobs don't notice.
func TestSlurmdRestarted(t *testing.T) {
	slow(t)
	w := start(t, testbed.Options{}, apart(deployment("gpu", "12h")))
	w.traffic()
	before := w.replicas()
	node := w.nodeOf(before[0])
	w.tr.Mark()
	w.no(node.KillSlurmd())
	w.tr.Finished(w.ctx, 3*traffic.Streams)
	w.no(node.StartSlurmd(w.ctx))
	w.tr.Finished(w.ctx, traffic.Streams)
	w.same(before)
	w.finish(9, "slurmd killed and started again", "no replica changed")
}

// TestInboundDropped: login can't dial compute, as on many sites. The agents dial the controller and a gateway of its own, and
// requests ride on these connections.
func TestInboundDropped(t *testing.T) {
	slow(t)
	w := setup(t, testbed.Options{})
	for n := 1; n <= testbed.Nodes; n++ {
		w.no(w.bed.Node(n).DropInbound(w.ctx))
	}
	w.serve()
	w.deploy(deployment("gpu", "12h"))
	w.connect()
	w.gateway()
	w.traffic()
	before := w.replicas()
	for _, r := range before {
		ctx, cancel := context.WithTimeout(w.ctx, 2*time.Second)
		if c, err := w.on.DialContext(ctx, "tcp", w.nodeOf(r).Addr+r.Address[strings.LastIndex(r.Address, ":"):]); err == nil {
			_ = c.Close()
			t.Errorf("login dials %s", r.Address)
		}
		cancel()
	}
	w.tr.Mark()
	w.tr.Finished(w.ctx, 3*traffic.Streams)
	w.asAlice("scancel", before[0].Job)
	w.until("another job has taken the place of one", ready(2, before[0].Launch))
	w.tr.Finished(w.ctx, 3*traffic.Streams)
	w.finish(10, "dialling from login to nodes is dropped; one replica is replaced", "served over connections that the agents have dialled, also by a gateway of its own")
}

// same fails the test where replicas were replaced.
func (w *world) same(before []installation.Replica) {
	w.t.Helper()
	var now []string
	for _, r := range w.replicas() {
		now = append(now, r.Launch)
	}
	for _, r := range before {
		found := false
		for _, l := range now {
			found = found || l == r.Launch
		}
		if !found {
			w.t.Errorf("replica %s is not among %v any more", r.Launch, now)
		}
	}
	if len(now) != len(before) {
		w.t.Errorf("%d replicas, before there were %d", len(now), len(before))
	}
}
