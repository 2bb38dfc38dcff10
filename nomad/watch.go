package nomad

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
)

// topics are those whose events may change what Jobs, Counts and Capacity answer.
func topics() map[api.Topic][]string {
	all := []string{string(api.TopicAll)}
	return map[api.Topic][]string{
		api.TopicJob: all, api.TopicAllocation: all, api.TopicDeployment: all, api.TopicEvaluation: all, api.TopicNode: all,
	}
}

const (
	firstPause = 250 * time.Millisecond
	mostPause  = 15 * time.Second
	// blockFor is how long one blocking query may wait where there is no event stream.
	blockFor = time.Minute
)

// Watch calls changed whenever Nomad tells of something that concerns this installation, until ctx ends. It follows the event
// stream, resumes it after the last index that it has seen, and calls changed after each gap, since Nomad keeps events for a
// short while only: the listing that follows is the truth. Where the stream is closed to this token, or unknown to the
// server, it blocks on the list of jobs instead. changed must not block.
func (c *Cluster) Watch(ctx context.Context, changed func()) error {
	pause := firstPause
	var index uint64
	for ctx.Err() == nil {
		began := time.Now()
		next, err := c.follow(ctx, index, changed)
		if ctx.Err() != nil {
			break
		}
		index = max(index, next)
		switch code := status(err); {
		case code == http.StatusForbidden || code == http.StatusNotFound || code == http.StatusNotImplemented:
			c.metrics.streams.WithLabelValues("refused").Inc()
			c.log.Warn().Err(err).Msg("no event stream: Nomad is asked by blocking queries")
			c.block(ctx, changed)
			continue
		case errors.Is(err, io.EOF):
			c.metrics.streams.WithLabelValues("closed").Inc()
		default:
			c.metrics.streams.WithLabelValues("unanswered").Inc()
		}
		changed() // whatever was missed
		if time.Since(began) > mostPause {
			pause = firstPause
		}
		rest(ctx, pause)
		pause = min(2*pause, mostPause)
	}
	return nil
}

// rest waits, or until ctx ends.
func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// follow reads one event stream to its end.
func (c *Cluster) follow(ctx context.Context, from uint64, changed func()) (last uint64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if from > 0 {
		from++
	}
	events, err := c.api.EventStream().Stream(ctx, topics(), from, &api.QueryOptions{Namespace: everywhere})
	if err != nil {
		return from, err
	}
	defer func() { // the client's goroutine ends with its channel
		cancel()
		for range events { //nolint:revive // drained
		}
	}()
	for e := range events {
		if e.Err != nil {
			return last, e.Err
		}
		last = max(last, e.Index)
		if slices.ContainsFunc(e.Events, concerns) {
			changed()
		}
	}
	return last, io.EOF
}

// concerns reports whether an event may be about this installation: nodes are everybody's, and our jobs have a prefix.
func concerns(e api.Event) bool {
	if e.Topic == api.TopicNode {
		return true
	}
	if strings.HasPrefix(e.Key, jobPrefix) || slices.ContainsFunc(e.FilterKeys, func(k string) bool { return strings.HasPrefix(k, jobPrefix) }) {
		return true
	}
	for _, kind := range []string{"Allocation", "Deployment", "Evaluation", "Job"} {
		if body, ok := e.Payload[kind].(map[string]any); ok {
			for _, field := range []string{"JobID", "ID"} {
				if id, ok := body[field].(string); ok && strings.HasPrefix(id, jobPrefix) {
					return true
				}
			}
		}
	}
	return false
}

// block asks for the jobs again and again, each time until they have changed, and returns after the first question without an
// answer.
func (c *Cluster) block(ctx context.Context, changed func()) {
	var index uint64
	for ctx.Err() == nil {
		q := (&api.QueryOptions{Namespace: everywhere, Prefix: jobPrefix, WaitIndex: index, WaitTime: blockFor}).WithContext(ctx)
		began := time.Now()
		_, meta, err := c.api.Jobs().List(q)
		c.metrics.called("list jobs, blocking", began, err)
		if err != nil {
			rest(ctx, mostPause)
			return
		}
		if meta.LastIndex != index {
			changed()
		}
		if meta.LastIndex <= index && time.Since(began) < firstPause {
			rest(ctx, mostPause) // a server that does not block
		}
		if meta.LastIndex < index {
			index = 0 // as after a restore of Nomad's state
			continue
		}
		index = meta.LastIndex
	}
}
