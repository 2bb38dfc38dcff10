package nomadtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/nomad/api"
)

// start runs all tasks of an allocation on its node. One that replaces another on the same node waits for its end.
func (s *Server) start(a *alloc) {
	tasks := a.group().Tasks
	a.left = len(tasks)
	for _, t := range tasks {
		a.TaskStates[t.Name] = &api.TaskState{State: "pending"}
		s.event(a, t.Name, &api.TaskEvent{Type: api.TaskReceived, DisplayMessage: "Task received by client"})
		signals := make(chan string, 8)
		a.signals = append(a.signals, signals)
		s.running.Go(func() { s.runTask(a, t, signals) })
	}
}

// runTask starts a task, again and again as its group's restart policy says, until it is to end for good.
func (s *Server) runTask(a *alloc, t *api.Task, signals chan string) {
	failed := false
	if s.waitForPrevious(a) {
		failed = s.runs(a, t, signals)
	}
	s.sweep(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	a.left--
	end := func() { s.taskEnded(a, t.Name, failed) }
	if !s.closed {
		s.onClient(a.node, end)
	}
}

// waitForPrevious waits until the allocation that this one replaces has ended, on whichever node: a client starts nothing in
// place of something that still runs. It does not wait for what is lost or unknown.
func (s *Server) waitForPrevious(a *alloc) (goOn bool) {
	for {
		s.mu.Lock()
		old, changed := s.allocs[a.PreviousAllocation], s.changed
		free := old == nil || old.over() || old.ClientStatus == api.AllocClientStatusUnknown
		if old != nil && old.node == a.node && !old.node.away {
			free = old.left == 0
		}
		s.mu.Unlock()
		if free {
			return true
		}
		select {
		case <-a.killed:
			return false
		case <-changed:
		}
	}
}

// runs returns whether the task has failed at its end.
func (s *Server) runs(a *alloc, t *api.Task, signals chan string) (failed bool) {
	for starts := 0; ; starts++ {
		code, sig, asked, err := s.runOnce(a, t, signals)
		if asked {
			return false
		}
		s.mu.Lock()
		policy, service := a.group().RestartPolicy, *a.job.Type == api.JobTypeService
		s.mu.Unlock()
		if err == nil && code == 0 && sig == 0 && !service {
			return false
		}
		if starts >= *policy.Attempts && *policy.Mode == "fail" {
			s.locked(func() {
				reason := "Exceeded allowed attempts"
				if *policy.Attempts == 0 {
					reason = "Policy allows no restarts"
				}
				s.event(a, t.Name, &api.TaskEvent{
					Type: api.TaskNotRestarting, DisplayMessage: reason, RestartReason: reason, FailsTask: true,
					Details: map[string]string{"restart_reason": reason, "fails_task": "true"},
				})
			})
			return true
		}
		s.locked(func() {
			st := a.TaskStates[t.Name]
			st.Restarts, st.LastRestart, st.State = st.Restarts+1, time.Now(), "pending"
			s.event(a, t.Name, &api.TaskEvent{Type: api.TaskRestarting, DisplayMessage: "Task restarting", StartDelay: int64(*policy.Delay)})
			s.reckon(a)
		})
		select {
		case <-a.killed:
			return false
		case <-time.After(s.wait(policy.Delay)):
		}
	}
}

func (s *Server) locked(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		do()
	}
}

// runOnce runs a task's process until its end. asked: the server wanted the end.
func (s *Server) runOnce(a *alloc, t *api.Task, signals chan string) (code, sig int, asked bool, err error) {
	cmd, err := s.command(a, t)
	if err == nil && cmd != nil {
		err = cmd.Start()
		if f, ok := cmd.Stdout.(*os.File); ok {
			defer f.Close()
		}
		if f, ok := cmd.Stderr.(*os.File); ok {
			defer f.Close()
		}
	}
	if err != nil {
		s.locked(func() {
			s.event(a, t.Name, &api.TaskEvent{
				Type: api.TaskDriverFailure, DriverError: err.Error(), DisplayMessage: err.Error(), Details: map[string]string{"driver_error": err.Error()},
			})
		})
		return 1, 0, false, err
	}
	ended := make(chan error, 1)
	if cmd != nil {
		s.running.Go(func() { ended <- cmd.Wait() })
	}
	s.locked(func() {
		if cmd != nil {
			a.pids = append(a.pids, cmd.Process.Pid)
		}
		st := a.TaskStates[t.Name]
		st.State, st.StartedAt = "running", time.Now()
		s.event(a, t.Name, &api.TaskEvent{Type: api.TaskStarted, DisplayMessage: "Task started by client"})
		s.reckon(a)
		s.watchHealth(a)
	})
	code, sig, asked = s.await(a, t, cmd, signals, ended)
	s.locked(func() {
		s.event(a, t.Name, &api.TaskEvent{
			Type: api.TaskTerminated, ExitCode: code, Signal: sig, DisplayMessage: exitWords(code, sig),
			Details: map[string]string{"exit_code": fmt.Sprint(code), "signal": fmt.Sprint(sig), "oom_killed": "false"},
		})
		if asked {
			s.event(a, t.Name, &api.TaskEvent{Type: api.TaskKilled, DisplayMessage: "Task successfully killed"})
		}
	})
	return code, sig, asked, nil
}

func exitWords(code, sig int) string {
	if sig != 0 {
		return fmt.Sprintf("Exit Code: %d, Signal: %d", code, sig)
	}
	return fmt.Sprintf("Exit Code: %d", code)
}

// await waits for the end of a process, hands signals on to it, and kills it in two steps when the server wants its end.
func (s *Server) await(a *alloc, t *api.Task, cmd *exec.Cmd, signals chan string, ended chan error) (code, sig int, asked bool) {
	send := func(name string) {
		switch {
		case cmd == nil && (name == "SIGKILL" || name == "SIGTERM" || name == "SIGINT"):
			ended <- errMarked
		case cmd != nil:
			_ = cmd.Process.Signal(signalNamed(name))
		}
	}
	var kill <-chan time.Time
	killed := a.killed
	again := false
	for {
		select {
		case err := <-ended:
			code, sig = exitOf(err)
			return code, sig, asked && !again
		case name := <-signals:
			if name == restart {
				again = true
				name = "SIGTERM"
			}
			send(name)
		case <-killed:
			killed, asked = nil, true
			timeout := s.killing(a, t)
			if timeout == 0 {
				send("SIGKILL")
				break
			}
			name := t.KillSignal
			if name == "" {
				name = "SIGINT"
			}
			send(name)
			kill = time.After(timeout)
		case <-kill:
			send("SIGKILL")
		}
	}
}

var errMarked = errors.New("a marked task was killed")

// killing says how long a task may take to end; 0 = no time at all, the fake ends.
func (s *Server) killing(a *alloc, t *api.Task) (timeout time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.noMercy || s.closed {
		return 0
	}
	timeout = 5 * time.Second
	if t.KillTimeout != nil {
		timeout = *t.KillTimeout
	}
	s.event(a, t.Name, &api.TaskEvent{
		Type: api.TaskKilling, KillTimeout: timeout, DisplayMessage: fmt.Sprintf("Sent interrupt. Waiting %s before force killing", timeout),
		Details: map[string]string{"kill_timeout": timeout.String()},
	})
	return timeout
}

func exitOf(err error) (code, sig int) {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, 0
	case errors.As(err, &exit):
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal()), int(ws.Signal())
		}
		return exit.ExitCode(), 0
	}
	return 137, 9
}

func signalNamed(name string) syscall.Signal {
	return map[string]syscall.Signal{
		"SIGTERM": syscall.SIGTERM, "SIGINT": syscall.SIGINT, "SIGKILL": syscall.SIGKILL, "SIGUSR1": syscall.SIGUSR1,
		"SIGUSR2": syscall.SIGUSR2, "SIGHUP": syscall.SIGHUP, "SIGQUIT": syscall.SIGQUIT, "SIGSTOP": syscall.SIGSTOP, "SIGCONT": syscall.SIGCONT,
	}[name]
}

// sweep kills what an allocation's processes have left behind: real clients find it by its cgroup.
func (s *Server) sweep(a *alloc) {
	if s.opts.Marks {
		return
	}
	for _, pid := range withVariable("NOMAD_ALLOC_ID", a.ID) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// withVariable lists the processes whose environment has a variable with a value.
func withVariable(name, value string) (pids []int) {
	entries, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range entries {
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains("\x00"+string(text), "\x00"+name+"="+value+"\x00") {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(path, "/proc/%d/environ", &pid); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// event adds an event to a task's state.
func (s *Server) event(a *alloc, task string, e *api.TaskEvent) {
	e.Time = now()
	if e.Details == nil {
		e.Details = map[string]string{}
	}
	st := a.TaskStates[task]
	st.Events = append(st.Events, e)
}

// taskEnded notes a task's end; the last one ends the allocation.
func (s *Server) taskEnded(a *alloc, task string, failed bool) {
	st := a.TaskStates[task]
	st.State, st.Failed, st.FinishedAt = "dead", failed, time.Now()
	if failed { // the others of the group end with it
		a.askToEnd()
	}
	s.reckon(a)
	if !a.over() {
		return
	}
	j := s.jobs[key{a.Namespace, a.JobID}]
	if a.ClientStatus == api.AllocClientStatusFailed && j != nil {
		if a.DeploymentID != "" && !a.healthy() {
			s.healthChanged(a, false)
		}
		s.reschedule(a)
	}
	if j != nil {
		s.settle(j)
	}
	s.drained(a.node)
	s.retryBlocked()
}

// reckon makes the allocation's client status out of its tasks'.
func (s *Server) reckon(a *alloc) {
	pending, running, failed, dead := 0, 0, 0, 0
	for _, st := range a.TaskStates {
		switch {
		case st.State == "running":
			running++
		case st.State == "dead" && st.Failed:
			failed++
		case st.State == "dead":
			dead++
		default:
			pending++
		}
	}
	if a.ClientStatus == api.AllocClientStatusLost && a.left > 0 {
		return
	}
	switch {
	case running > 0:
		s.setClient(a, api.AllocClientStatusRunning, "Tasks are running")
	case pending > 0:
		s.setClient(a, api.AllocClientStatusPending, "No tasks have started")
	case failed > 0:
		s.setClient(a, api.AllocClientStatusFailed, "Failed tasks")
	default:
		s.setClient(a, api.AllocClientStatusComplete, "All tasks have completed")
	}
}
