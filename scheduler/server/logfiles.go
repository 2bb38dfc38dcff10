package server

import (
	"context"
	"fmt"
	"path/filepath"
	"sort"

	"connectrpc.com/connect"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/ledger"
)

// Logs reads engines' and agents' logs from the state folder, so that they can be read after the agent is gone too.
func (c controlAPI) Logs(ctx context.Context, req *apiv1.LogsRequest, stream *connect.ServerStream[apiv1.LogsResponse]) error {
	d, err := c.s.deployment(req.Deployment)
	if err != nil {
		return answer(err)
	}
	if _, err := c.s.logFiles(d, req); err != nil {
		return answer(err)
	}
	files := func() []logFile {
		list, _ := c.s.logFiles(d, req)
		return list
	}
	return c.s.follow(ctx, func(ctx context.Context) error {
		return readLogs(ctx, files, int(req.Tail), req.Follow, func(l logLine) error {
			return stream.Send(&apiv1.LogsResponse{Replica: l.replica, NodeRank: uint32(l.rank), Line: l.text})
		})
	})
}

// logFiles are the files that a request means.
func (s *Server) logFiles(d ledger.Deployment, req *apiv1.LogsRequest) ([]logFile, error) {
	found, err := s.launches(d, req.Replica, true)
	if err != nil {
		return nil, err
	}
	name := "engine"
	if req.Stream == "agent" {
		name = "agent"
	}
	var out []logFile
	for _, l := range pickLaunches(found, req.Previous) {
		for rank := range l.Nodes {
			out = append(out, logFile{
				path: filepath.Join(s.o.LogDir(l), fmt.Sprintf("%s-%d.log", name, rank)), replica: fmt.Sprintf("%s/%d", l.Role, l.Index), rank: rank,
			})
		}
	}
	return out, nil
}

// pickLaunches takes of each replica the newest launch and older ones that still drain, or (previous) the one before the
// newest.
func pickLaunches(all []cluster.Launch, previous bool) (out []cluster.Launch) {
	byReplica := map[string][]cluster.Launch{}
	var order []string
	for _, l := range all { // oldest first
		name := fmt.Sprintf("%s/%d", l.Role, l.Index)
		if byReplica[name] == nil {
			order = append(order, name)
		}
		byReplica[name] = append(byReplica[name], l)
	}
	sort.Strings(order)
	for _, name := range order {
		older, newest := byReplica[name][:len(byReplica[name])-1], byReplica[name][len(byReplica[name])-1]
		if previous {
			out = append(out, older[max(0, len(older)-1):]...)
			continue
		}
		for _, l := range older {
			if l.Phase != cluster.Ended {
				out = append(out, l)
			}
		}
		out = append(out, newest)
	}
	return out
}
