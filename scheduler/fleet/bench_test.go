package fleet

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
)

// fleetOf makes a fleet of n started replicas and the launches that they belong to.
func fleetOf(b *testing.B, n int) (*Fleet, []cluster.Launch) {
	b.Helper()
	f := New(Options{})
	launches := make([]cluster.Launch, n)
	for i := range launches {
		id := cluster.LaunchID(fmt.Sprintf("qwen-mixed-%d-k3v9x2mq", i))
		launches[i] = cluster.Launch{ID: id, Deployment: "d", Role: jobspecs.Mixed, Index: i, Phase: cluster.Submitted}
		f.Admit(id, "r", 1, 1)
		m := full(0, started, 1)
		m.GetFull().Identity.Launch = string(id)
		if _, err := f.Apply(id, "r", 1, 0, m, t0); err != nil {
			b.Fatal(err)
		}
	}
	return f, launches
}

// One operation is one second of so many agents that report once a second, with one snapshot taken.
func BenchmarkSecondOfReports(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprintf("agents=%d", n), func(b *testing.B) {
			f, launches := fleetOf(b, n)
			seq := uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				seq++
				now := t0.Add(time.Duration(seq) * time.Second)
				f.Snapshot(now)
				for _, l := range launches {
					m := delta1(seq, &apiv1.RunState{Load: &apiv1.EngineLoad{OpenRequests: uint32(seq)}})
					if a, err := f.Apply(l.ID, "r", 1, 0, m, now); err != nil || a.Seq != seq {
						b.Fatal(a, err)
					}
				}
			}
		})
	}
}

// One operation is a view of so many replicas of which all have new loads, published to nobody.
func BenchmarkPublish(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprintf("replicas=%d", n), func(b *testing.B) {
			f, launches := fleetOf(b, n)
			d := []Deployed{{Spec: jobspecs.Deployment{Name: "d"}, Wanted: map[jobspecs.RoleKind]int{jobspecs.Mixed: n}}}
			p := NewPublisher(PublisherOptions{})
			seq := uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				seq++
				for _, l := range launches {
					if _, err := f.Apply(l.ID, "r", 1, 0, delta1(seq, &apiv1.RunState{Load: &apiv1.EngineLoad{}}), t0); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
				v := Gateways(f.Snapshot(t0), launches, d, nil)
				v.Settled = true
				p.publish(v, true)
			}
		})
	}
}

// The memory of a fleet of 10,000 replicas, bytes per replica.
func BenchmarkMemory(b *testing.B) {
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		f, launches := fleetOf(b, 10000)
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/10000, "B/replica")
		runtime.KeepAlive(f)
		runtime.KeepAlive(launches)
	}
}
