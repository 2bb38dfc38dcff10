package nomad

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/nomad/api"
)

// heard reads a stream until an allocation event of a job comes; it returns the last index, and false where the stream ended.
func heard(ctx context.Context, events <-chan *api.Events, job string) (last uint64, ok bool) {
	for {
		select {
		case <-ctx.Done():
			return last, false
		case batch, open := <-events:
			if !open || batch.Err != nil {
				return last, false
			}
			last = batch.Index
			for _, e := range batch.Events {
				a, err := e.Allocation()
				if err == nil && a != nil && a.JobID == job {
					return last, true
				}
			}
		}
	}
}

func cutStream(w *world) string {
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	topics := map[api.Topic][]string{api.TopicAllocation: {"*"}, api.TopicJob: {"*"}}
	events, err := w.c.EventStream().Stream(ctx, topics, 0, nil)
	w.no(err)
	j := w.sleeper("web", 1)
	w.register(j)
	last, ok := heard(ctx, events, *j.ID)
	if !ok {
		w.Fatal("no event came")
	}
	w.run(*j.ID, 1)
	begin := time.Now()
	w.no(w.hands.RestartServer(ctx))
	ended := false
	for !ended {
		select {
		case batch, open := <-events:
			ended = !open || batch.Err != nil
		case <-ctx.Done():
			w.Fatal("the stream did not end with its server")
		}
	}
	w.until("the stream is taken again", func() bool {
		events, err = w.c.EventStream().Stream(ctx, topics, last+1, nil)
		return err == nil
	})
	w.until("the server takes jobs", func() bool {
		_, _, err := w.c.Jobs().Register(w.sleeper("other", 1), nil)
		return err == nil
	})
	if _, ok := heard(ctx, events, w.prefix+"other"); !ok {
		w.Fatal("no event came after the restart")
	}
	w.untilReady()
	return fmt.Sprintf("events again %.1f s after the restart began", time.Since(begin).Seconds())
}

func blockingQuery(w *world) string {
	j := w.sleeper("web", 1)
	w.register(j)
	w.deployed(*j.ID)
	_, meta, err := w.c.Jobs().Allocations(*j.ID, true, nil)
	w.no(err)
	if meta.LastIndex == 0 || !meta.KnownLeader {
		w.Errorf("meta %+v", meta)
	}
	begin := time.Now()
	_, again, err := w.c.Jobs().Allocations(*j.ID, true, &api.QueryOptions{WaitIndex: meta.LastIndex, WaitTime: 300 * time.Millisecond})
	w.no(err)
	if again.LastIndex == meta.LastIndex && time.Since(begin) < 250*time.Millisecond {
		w.Errorf("nothing has changed and it answered after %s", time.Since(begin))
	}
	woken := make(chan error, 1)
	go func() {
		_, m, err := w.c.Jobs().Allocations(*j.ID, true, (&api.QueryOptions{WaitIndex: again.LastIndex, WaitTime: time.Minute}).WithContext(w.ctx))
		if err == nil && m.LastIndex <= again.LastIndex {
			err = errors.New("it answered with the same index")
		}
		woken <- err
	}()
	w.no(w.scale(*j.ID, 2, "wake up"))
	w.no(<-woken)
	return "woken by the change"
}

func variables(w *world) string {
	path := "nomad/jobs/" + w.prefix + "web"
	v := api.NewVariable(path)
	v.Items["join"] = "one"
	made, _, err := w.c.Variables().CheckedUpdate(v, nil) // index 0: it must not be there
	w.no(err)
	w.Cleanup(func() { _, err := w.c.Variables().Delete(path, nil); w.no(err) })
	_, _, err = w.c.Variables().CheckedUpdate(v, nil)
	var conflict api.ErrCASConflict
	if !errors.As(err, &conflict) || conflict.Conflict.ModifyIndex != made.ModifyIndex {
		w.Errorf("got %v, want a conflict with index %d", err, made.ModifyIndex)
	}
	made.Items["join"] = "two"
	_, _, err = w.c.Variables().CheckedUpdate(made, nil)
	w.no(err)
	got, _, err := w.c.Variables().Read(path, nil)
	w.no(err)
	if got.Items["join"] != "two" {
		w.Errorf("read %v", got.Items)
	}
	_, _, err = w.c.Variables().Read(path+"-other", nil)
	if !errors.Is(err, api.ErrVariablePathNotFound) {
		w.Errorf("read of none: %v", err)
	}
	return "conflict with the current one in the answer"
}

func hundred(w *world) string {
	j := w.sleeper("many", 100)
	j.TaskGroups[0].Update.MaxParallel = ptr(100)
	begin := time.Now()
	w.register(j)
	w.run(*j.ID, 100)
	up := time.Since(begin)
	w.deployed(*j.ID)
	begin = time.Now()
	_, _, err := w.c.Jobs().Deregister(*j.ID, false, nil)
	w.no(err)
	w.until("all have ended", func() bool {
		for _, a := range w.allocations(*j.ID) {
			if a.ClientStatus != "complete" {
				return false
			}
		}
		return true
	})
	return fmt.Sprintf("100 ran after %.0f s, had ended %.0f s after the stop", up.Seconds(), time.Since(begin).Seconds())
}
