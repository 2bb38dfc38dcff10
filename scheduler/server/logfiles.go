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
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer c.s.untilClosing(ctx, cancel)()
	files := func() []logFile {
		list, _ := c.s.logFiles(d, req)
		return list
	}
	return answer(readLogs(ctx, files, int(req.Tail), req.Follow, func(l logLine) error {
		return stream.Send(&apiv1.LogsResponse{Replica: l.replica, NodeRank: uint32(l.rank), Line: l.text})
	}))
}

// logFiles are the files that a request means: of the live launches, else (or with previous) of the last that ended.
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

// pickLaunches takes of each replica the newest launch, or the one before it.
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
		list := byReplica[name]
		if i := len(list) - 1; !previous {
			out = append(out, list[i])
		} else if i > 0 {
			out = append(out, list[i-1])
		}
	}
	return out
}
