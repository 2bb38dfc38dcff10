package slurm

import (
	"fmt"
	"strings"
	"time"
)

// waits are reasons of pending jobs in words, with what would help.
var waits = map[string]string{
	"None":                     "it has just been submitted",
	"Priority":                 "jobs of higher priority go first",
	"Resources":                "it waits for nodes or GPUs to come free",
	"Dependency":               "it waits for the job that it follows to end",
	"DependencyNeverSatisfied": "the job that it follows can never let it start; cancel it",
	"BeginTime":                "its begin time has not come; after a requeue that takes some minutes",
	"JobHeldUser":              "you hold it; scontrol release lets it go",
	"JobHeldAdmin":             "an administrator holds it; ask them why",
	"JobArrayTaskLimit":        "the array's limit of running tasks is reached",
	"Licenses":                 "it waits for a license",
	"Cleaning":                 "what is left of its last start is being cleaned up",
	"Prolog":                   "its nodes are being prepared",
	"InactiveLimit":            "the job was inactive for too long",
	"PartitionDown":            "the partition is down; `sinfo` shows which are up, slurm.partition chooses",
	"PartitionInactive":        "the partition takes no jobs now; slurm.partition chooses another one",
	"PartitionNodeLimit":       "it wants more nodes than the partition allows: lower roles.ROLE.nodes, or choose another slurm.partition",
	"PartitionTimeLimit":       "it wants more time than the partition allows: lower slurm.time, or choose another slurm.partition",
	"ReqNodeNotAvail":          "a node that it needs is not available: down, drained, or reserved for maintenance that begins before the job would end; a shorter slurm.time may help",
	"NodeDown":                 "a node that it needs is down",
	"BadConstraints":           "no node has what it asks for: see slurm.constraint, roles.ROLE.gpus, cpus and memory",
	"Reservation":              "it waits for its reservation to begin",
	"ReservationDeleted":       "its reservation is gone; correct slurm.reservation",
	"MaxMemPerLimit":           "it wants more memory per node than the partition allows: lower roles.ROLE.memory",
	"QOSNotAllowed":            "its QOS is not allowed here; slurm.qos chooses another one",
	"InvalidQOS":               "its QOS is not known; slurm.qos chooses another one",
	"InvalidAccount":           "its account is not known; slurm.account chooses another one",
	"AccountNotAllowed":        "its account may not use the partition; slurm.account or slurm.partition chooses another one",
	"AccountingPolicy":         "a limit of its account or QOS is reached",
	"AccountingPolicyLimits":   "a limit of its account or QOS is reached",
	"SystemFailure":            "Slurm, a file system or a network has failed",
	"JobLaunchFailure":         "a node could not start it",
	"LaunchFailedRequeuedHeld": "a node could not start it, and it is held; scontrol release lets it go",
	"RequeuedHeld":             "it was requeued and is held; scontrol release lets it go",
	"MaxRequeue":               "it was requeued too often",
	"FedJobLock":               "the federation decides about it",
	"BurstBufferResources":     "it waits for the burst buffer",
	"BurstBufferStageIn":       "its burst buffer is being filled",
	"FrontEndDown":             "no front end node is up",
	"NonZeroExitCode":          "its last start failed",
	"ReservationMaintenance":   "a maintenance reservation begins before it would end; a shorter slurm.time may help",
	"DeadLine":                 "it can no longer end before its deadline",
	nodesRequired:              "the nodes that it needs are down, drained, or kept for partitions of higher priority",
}

// limited tells whether a reason is a limit of the user, the account or the QOS: what keeps a second job from starting while
// the first one runs.
func limitedBy(reason string) (limit string, is bool) {
	word := firstWord(reason)
	switch word {
	case "QOSNotAllowed", "QOSUsageThreshold", "AssociationTimeLimit", "QOSTimeLimit":
		return "", false // waiting for another job does not help
	case "AccountingPolicy", "AccountingPolicyLimits", "AssociationJobLimit", "AssociationResourceLimit", "QOSJobLimit", "QOSResourceLimit":
		return word, true
	}
	for _, prefix := range []string{"QOSMax", "QOSGrp", "AssocMax", "AssocGrp", "MaxJobsPerAccount", "MaxCpuPerAccount", "MaxGRESPerAccount", "MaxNodePerAccount"} {
		if strings.HasPrefix(word, prefix) {
			return word, true
		}
	}
	return "", false
}

// nodesRequired begins the one reason that Slurm gives as a sentence.
const nodesRequired = "Nodes required for job"

// firstWord is a reason without what Slurm appends: ReqNodeNotAvail, UnavailableNodes:node2.
func firstWord(reason string) string {
	if strings.HasPrefix(strings.ReplaceAll(reason, "_", " "), nodesRequired) {
		return nodesRequired
	}
	word, _, _ := strings.Cut(strings.Trim(reason, "()"), ",")
	return word
}

// waitWords says in words why a job is pending, and when Slurm expects to start it.
func waitWords(state, reason string, start, now time.Time) string {
	reason = strings.Trim(reason, "()")
	if state == "CONFIGURING" || state == "POWER_UP_NODE" {
		return "its nodes are being started"
	}
	words, ok := waits[firstWord(reason)]
	if !ok {
		if limit, is := limitedBy(reason); is {
			words, ok = "a limit of "+whose(limit)+" is reached: it starts when other jobs under the limit have ended", true
		}
	}
	switch {
	case reason == "":
		words = "Slurm gives no reason"
	case !ok:
		words = "Slurm's reason is " + reason
	case firstWord(reason) == nodesRequired: // says the same
	default:
		words += " (" + reason + ")"
	}
	if start.After(now) && firstWord(reason) != "BeginTime" {
		words += fmt.Sprintf("; Slurm expects a start in %s", about(start.Sub(now)))
	}
	return words
}

func whose(limit string) string {
	switch {
	case strings.HasPrefix(limit, "QOS"):
		return "the QOS"
	case strings.HasPrefix(limit, "Assoc"):
		return "your account"
	}
	return "your account or QOS"
}

// about rounds a wait so that its text does not change with every look.
func about(d time.Duration) string {
	switch {
	case d < 10*time.Minute:
		return "some minutes"
	case d < 2*time.Hour:
		return fmt.Sprintf("about %d minutes", int(d.Round(10*time.Minute).Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("about %d hours", int(d.Round(time.Hour).Hours()))
	}
	return fmt.Sprintf("about %d days", int(d.Round(24*time.Hour).Hours()/24))
}
