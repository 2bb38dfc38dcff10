package slurm

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/scheduler/cluster"
)

// states are Slurm's states as the contract's.
var states = map[string]cluster.JobState{
	"PENDING": cluster.JobPending, "CONFIGURING": cluster.JobPending, "REQUEUED": cluster.JobPending, "REQUEUE_HOLD": cluster.JobPending,
	"REQUEUE_FED": cluster.JobPending, "SPECIAL_EXIT": cluster.JobPending, "RESV_DEL_HOLD": cluster.JobPending,
	"RUNNING": cluster.JobRunning, "SUSPENDED": cluster.JobRunning, "STOPPED": cluster.JobRunning, "SIGNALING": cluster.JobRunning,
	"RESIZING": cluster.JobRunning, "POWER_UP_NODE": cluster.JobPending, "UPDATE_DB": cluster.JobRunning,
	"COMPLETING": cluster.JobEnding, "STAGE_OUT": cluster.JobEnding,
	"COMPLETED": cluster.JobEnded, "CANCELLED": cluster.JobEnded, "FAILED": cluster.JobEnded, "TIMEOUT": cluster.JobEnded,
	"NODE_FAIL": cluster.JobEnded, "PREEMPTED": cluster.JobEnded, "BOOT_FAIL": cluster.JobEnded, "DEADLINE": cluster.JobEnded,
	"OUT_OF_MEMORY": cluster.JobEnded, "REVOKED": cluster.JobEnded, "LAUNCH_FAILED": cluster.JobEnded, "RECONFIG_FAIL": cluster.JobEnded,
}

// stateOf is a state of Slurm's. One that this release does not know is unknown, and never taken for ended.
func stateOf(word string) cluster.JobState {
	word, _, _ = strings.Cut(word, " ") // sacct: CANCELLED by 1000
	if s, ok := states[word]; ok {
		return s
	}
	return cluster.JobUnknown
}

// causes are what Slurm tells of ends.
var causes = map[string]cluster.EndCause{
	"TIMEOUT": cluster.EndedWalltime, "DEADLINE": cluster.EndedWalltime, "PREEMPTED": cluster.EndedPreempted,
	"CANCELLED": cluster.EndedCancelled, "NODE_FAIL": cluster.EndedNodeFailed, "BOOT_FAIL": cluster.EndedNodeFailed,
	"LAUNCH_FAILED": cluster.EndedNodeFailed, "RECONFIG_FAIL": cluster.EndedNodeFailed, "OUT_OF_MEMORY": cluster.EndedOutOfMemory,
}

// notStarted are reasons of jobs that their nodes could not start. 22.05 gives the first also for a script that a signal
// has killed; then the exit tells.
var notStarted = []string{"JobLaunchFailure", "NodeDown", "Prolog", "PrologFail", "LaunchFailedRequeuedHeld", "BootFail"}

// causeOf is why a job ended, as far as Slurm tells.
func causeOf(state, reason string, exit status) cluster.EndCause {
	word, _, _ := strings.Cut(state, " ")
	if word == "FAILED" && slices.Contains(notStarted, reason) && exit.signal == 0 {
		return cluster.EndedNodeFailed
	}
	return causes[word]
}

// exitOf is the batch script's exit, which is its agent's. That of a job whose end came from outside counts only where it
// says something: Slurm shows 0:0 for what never ran.
func exitOf(state string, s status) *cluster.Exit {
	word, _, _ := strings.Cut(state, " ")
	if !s.known || word != "COMPLETED" && word != "FAILED" && s.code == 0 && s.signal == 0 {
		return nil
	}
	return &cluster.Exit{Code: s.code, Signal: s.signal}
}

// ends are how jobs end, in words.
var ends = map[string]string{
	"TIMEOUT": "its time limit was reached", "DEADLINE": "its deadline was reached", "PREEMPTED": "preempted by another job",
	"CANCELLED": "cancelled", "NODE_FAIL": "one of its nodes was lost", "BOOT_FAIL": "its nodes did not boot",
	"LAUNCH_FAILED": "its nodes could not start it", "RECONFIG_FAIL": "its nodes could not be set up",
	"OUT_OF_MEMORY": "it ran out of host memory; roles.ROLE.memory asks for more", "REVOKED": "revoked",
}

// howEnded says in words how a job ended.
func howEnded(state, reason string, exit *cluster.Exit, asked bool) string {
	word, _, _ := strings.Cut(state, " ")
	how, ok := ends[word]
	switch {
	case ok:
	case exit == nil:
		how = "ended (" + word + "), and nobody knows how"
	case exit.Signal != 0:
		how = fmt.Sprintf("killed by signal %d (%s)", exit.Signal, unix.SignalName(unix.Signal(exit.Signal)))
	default:
		how = fmt.Sprintf("exited with code %d", exit.Code)
	}
	if asked {
		how = "stopped: " + how
	}
	kind, _, _ := strings.Cut(reason, ":") // RaisedSignal:9(Killed)
	switch kind {
	case "", "None", "NonZeroExitCode", "TimeLimit", "RaisedSignal":
		return how
	}
	if word == "CANCELLED" || exit != nil && exit.Signal != 0 {
		return how // the reason is still that of its wait; or it is no news
	}
	return how + " (" + reason + ")"
}
