package nomad

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/penstock/penstock/jobspecs/render"
	"github.com/penstock/penstock/scheduler/cluster"
)

// view is an allocation in the contract's words, without what only its job can tell.
func view(a *api.AllocationListStub) cluster.Job {
	j := cluster.Job{ID: a.ID, State: stateOf(a), Index: indexOf(a.Name)}
	task := a.TaskStates[render.NomadTask]
	switch j.State {
	case cluster.JobPending:
		j.Reason = pendingWords(task)
		return j
	case cluster.JobEnding:
		j.Reason = stopWords(a)
	case cluster.JobUnknown:
		j.Reason = fmt.Sprintf("client %s has lost its servers: whether it runs is not known to Nomad", a.NodeName)
	}
	if a.NodeName != "" {
		j.Nodes = []string{a.NodeName}
	}
	j.Started = startOf(a, task)
	if j.State != cluster.JobEnded {
		return j
	}
	j.Exit = exitOf(task)
	if a.ClientStatus == api.AllocClientStatusLost {
		j.Exit = nil // it may live on
	}
	j.Ended = endOf(a, task)
	j.Cause, j.Reason = howEnded(a, task, j.Exit)
	return j
}

// stateOf joins what Nomad wants of an allocation with what its client last said.
func stateOf(a *api.AllocationListStub) cluster.JobState {
	switch a.ClientStatus {
	case api.AllocClientStatusComplete, api.AllocClientStatusFailed, api.AllocClientStatusLost:
		return cluster.JobEnded
	case api.AllocClientStatusUnknown:
		return cluster.JobUnknown
	case api.AllocClientStatusPending, api.AllocClientStatusRunning:
	default:
		return cluster.JobUnknown
	}
	switch {
	case a.DesiredStatus != api.AllocDesiredStatusRun:
		return cluster.JobEnding
	case a.ClientStatus == api.AllocClientStatusPending:
		return cluster.JobPending
	}
	return cluster.JobRunning
}

// indexOf reads the index off a name such as penstock-llama.decode[3].
func indexOf(name string) int {
	_, rest, ok := strings.Cut(name, "[")
	n, err := strconv.Atoi(strings.TrimSuffix(rest, "]"))
	if !ok || err != nil || n < 0 {
		return 0
	}
	return n
}

func startOf(a *api.AllocationListStub, task *api.TaskState) time.Time {
	if task != nil && !task.StartedAt.IsZero() {
		return task.StartedAt
	}
	if a.ClientStatus == api.AllocClientStatusRunning {
		return when(a.CreateTime)
	}
	return time.Time{}
}

func endOf(a *api.AllocationListStub, task *api.TaskState) time.Time {
	end := when(a.ModifyTime)
	if task != nil && !task.FinishedAt.IsZero() && a.ClientStatus != api.AllocClientStatusLost {
		end = task.FinishedAt
	}
	if task != nil && end.Before(task.StartedAt) {
		end = task.StartedAt
	}
	return end
}

// lastEvent is a task's last event of one of the kinds.
func lastEvent(task *api.TaskState, kinds ...string) *api.TaskEvent {
	if task == nil {
		return nil
	}
	for i := len(task.Events) - 1; i >= 0; i-- {
		for _, k := range kinds {
			if task.Events[i].Type == k {
				return task.Events[i]
			}
		}
	}
	return nil
}

// exitOf is how the agent ended, as its client saw it; nil = nobody knows. A signal's code of 128 and more is the client's own.
func exitOf(task *api.TaskState) *cluster.Exit {
	e := lastEvent(task, api.TaskTerminated)
	if e == nil {
		return nil
	}
	code, signal := e.ExitCode, e.Signal
	if n, err := strconv.Atoi(e.Details["exit_code"]); err == nil {
		code = n
	}
	if n, err := strconv.Atoi(e.Details["signal"]); err == nil {
		signal = n
	}
	if signal > 0 {
		code = 0
	}
	return &cluster.Exit{Code: code, Signal: signal}
}

// pendingWords say how far a placed allocation is.
func pendingWords(task *api.TaskState) string {
	if task == nil || len(task.Events) == 0 {
		return "it is placed, and its client has not begun yet"
	}
	e := task.Events[len(task.Events)-1]
	for _, text := range []string{e.DisplayMessage, e.Message, e.DriverMessage, e.Type} {
		if text != "" {
			return "its client says: " + cut(text)
		}
	}
	return "its client prepares it"
}

// The words of Nomad's own reasons to stop an allocation.
const (
	notNeeded   = "alloc not needed"
	updated     = "alloc is being updated"
	migrated    = "alloc is being migrated"
	preempted   = "preempted"
	rescheduled = "rescheduled"
	onLost      = "alloc is lost"
	clientGone  = "alloc lost since its node is down"
)

// stopWords say why Nomad stops an allocation.
func stopWords(a *api.AllocationListStub) string {
	switch d := a.DesiredDescription; {
	case a.PreemptedByAllocation != "" || strings.Contains(d, preempted):
		return "Nomad preempts it for something more important"
	case strings.Contains(d, migrated):
		return fmt.Sprintf("client %s is being drained: Nomad moves it", a.NodeName)
	case strings.Contains(d, updated):
		return "another revision takes its place"
	case strings.Contains(d, notNeeded):
		return "its count was lowered, or its job stopped"
	case d != "":
		return "Nomad stops it: " + cut(d)
	}
	return "Nomad was told to stop it"
}

// howEnded classifies an end, with the reason in words. An allocation that Nomad wanted to stop did not fail, however its
// agent ended.
func howEnded(a *api.AllocationListStub, task *api.TaskState, exit *cluster.Exit) (cluster.EndCause, string) {
	d := a.DesiredDescription
	told := a.DesiredStatus != api.AllocDesiredStatusRun
	switch {
	case a.PreemptedByAllocation != "" || strings.Contains(d, preempted):
		return cluster.EndedPreempted, "preempted by Nomad for something more important"
	case a.ClientStatus == api.AllocClientStatusLost:
		return cluster.EndedNodeFailed, fmt.Sprintf("client %s is lost for Nomad; its processes may live on there", a.NodeName)
	case outOfMemory(task):
		return cluster.EndedOutOfMemory, "killed for using more memory than its job asks for: raise roles.ROLE.memory"
	case told && strings.Contains(d, migrated):
		return cluster.EndedPreempted, fmt.Sprintf("client %s was drained", a.NodeName)
	case told && strings.Contains(d, updated):
		return cluster.EndedAsked, "another revision has taken its place"
	case told:
		return cluster.EndedCancelled, "stopped: " + orElse(cut(d), "Nomad was told to")
	case a.ClientStatus == api.AllocClientStatusFailed:
		return "", failureWords(a, task, exit)
	}
	return "", exitWords(exit)
}

func orElse(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

func outOfMemory(task *api.TaskState) bool {
	e := lastEvent(task, api.TaskTerminated)
	return e != nil && e.Details["oom_killed"] == "true"
}

// failureWords say why an allocation failed: of what its client reports, what it has not started for says more than the exit.
func failureWords(a *api.AllocationListStub, task *api.TaskState, exit *cluster.Exit) string {
	if e := lastEvent(task, api.TaskDriverFailure, api.TaskSetupFailure, api.TaskFailedValidation, api.TaskArtifactDownloadFailed); e != nil && exit == nil {
		return "its client could not start it: " + cut(orElse(e.DisplayMessage, orElse(e.DriverError, e.Type)))
	}
	if exit != nil {
		return exitWords(exit)
	}
	return "failed: " + orElse(cut(a.ClientDescription), "its client gives no reason")
}

func exitWords(exit *cluster.Exit) string {
	switch {
	case exit == nil:
		return "it has ended, and nobody knows how"
	case exit.Signal != 0:
		return fmt.Sprintf("killed by signal %d", exit.Signal)
	case exit.Code != 0:
		return fmt.Sprintf("exited with code %d", exit.Code)
	}
	return "it has ended by itself"
}
