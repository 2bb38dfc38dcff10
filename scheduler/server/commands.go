package server

import (
	"fmt"
	"sync"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// commands carries the controller's commands to the agents' open streams. The last command of each launch is kept and
// given to every stream that opens later, since agents act once per command id. Safe for concurrent use.
type commands struct {
	mu      sync.Mutex
	last    map[string]*apiv1.Command
	streams map[string]map[*agentStream]bool // by launch
}

func newCommands() *commands {
	return &commands{last: map[string]*apiv1.Command{}, streams: map[string]map[*agentStream]bool{}}
}

// agentStream is the sending side of one agent's Report call. Its owner is the call's goroutine.
type agentStream struct {
	out chan *apiv1.ReportResponse
}

// streamBacklog bounds what waits for an agent that does not read; more closes nothing, the agent asks again.
const streamBacklog = 16

func (c *commands) open(launch string) *agentStream {
	s := &agentStream{out: make(chan *apiv1.ReportResponse, streamBacklog)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams[launch] == nil {
		c.streams[launch] = map[*agentStream]bool{}
	}
	c.streams[launch][s] = true
	if cmd := c.last[launch]; cmd != nil {
		s.offer(commandResponse(cmd))
	}
	return s
}

func (c *commands) close(launch string, s *agentStream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.streams[launch], s)
	if len(c.streams[launch]) == 0 {
		delete(c.streams, launch)
	}
}

// send keeps the command and gives it to all agents of the launch. It fails when none is connected now; one that comes
// later gets it all the same.
func (c *commands) send(launch string, cmd *apiv1.Command) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last[launch] = cmd
	if len(c.streams[launch]) == 0 {
		return fmt.Errorf("send command to %s: no agent of it is connected; it gets the command when it comes back", launch)
	}
	for s := range c.streams[launch] {
		s.offer(commandResponse(cmd))
	}
	return nil
}

// broadcast gives a response to every agent of a launch.
func (c *commands) broadcast(launch string, r *apiv1.ReportResponse) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.streams[launch] {
		s.offer(r)
	}
}

// forget drops what is kept for a launch that has ended.
func (c *commands) forget(launch string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.last, launch)
}

func (s *agentStream) offer(r *apiv1.ReportResponse) {
	select {
	case s.out <- r:
	default:
	}
}

func commandResponse(cmd *apiv1.Command) *apiv1.ReportResponse {
	return &apiv1.ReportResponse{Body: &apiv1.ReportResponse_Command{Command: cmd}}
}
