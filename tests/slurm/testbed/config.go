package testbed

import (
	"fmt"
	"os"
	"strings"
)

// slurmConf is the variable that every Slurm command needs.
func (b *Bed) slurmConf() string { return "SLURM_CONF=" + b.path("etc", "slurm.conf") }

// cgroupConf: 22.05 refuses "disabled", and later releases want it.
func (b *Bed) cgroupConf() string {
	plugin := "disabled"
	if strings.HasPrefix(b.release, "22.") {
		plugin = "cgroup/v1"
		if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
			plugin = "cgroup/v2"
		}
	}
	return "CgroupPlugin=" + plugin + "\n"
}

func (b *Bed) gresConf() string {
	return fmt.Sprintf("AutoDetect=off\nNodeName=node[1-%d] Name=gpu Type=h100 File=%s/dev/nvidia[0-%d]\n", Nodes, b.Dir, GPUs-1)
}

// slurmConfText serves every release. Its short times make failures and requeues quick: Slurm's defaults are ten times as
// long (SlurmdTimeout 300 s, KillWait 30 s, cred_expire 120 s).
func (b *Bed) slurmConfText() string {
	text := strings.ReplaceAll(slurmConfBase, "$BED", b.Dir) + b.accountingConf()
	return text + fmt.Sprintf(`NodeName=node[1-%[1]d] NodeAddr=10.77.0.[11-%[2]d] CPUs=32 Boards=1 SocketsPerBoard=2 CoresPerSocket=16 ThreadsPerCore=1 RealMemory=256000 Gres=gpu:h100:%[3]d Feature=h100,ib State=UNKNOWN
PartitionName=gpu Nodes=ALL Default=YES MaxTime=1-00:00:00 DefaultTime=00:10:00 State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=preempt Nodes=ALL MaxTime=INFINITE DefaultTime=00:10:00 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=5
PartitionName=short Nodes=ALL MaxTime=%[4]s DefaultTime=00:01:00 State=UP PriorityTier=20 PreemptMode=OFF
`, Nodes, 10+Nodes, GPUs, slurmTime(b.opts.ShortMax))
}

const slurmConfBase = `ClusterName=bed
SlurmctldHost=login(10.77.0.1)
SlurmctldPort=6817
SlurmdPort=6818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$BED/run/munge.socket,cred_expire=5
CredType=cred/munge
AuthAltTypes=auth/jwt
AuthAltParameters=jwt_key=$BED/etc/jwt.key
StateSaveLocation=$BED/state
SlurmdSpoolDir=$BED/spool/%n
SlurmctldPidFile=$BED/run/slurmctld.pid
SlurmdPidFile=$BED/run/slurmd-%n.pid
SlurmctldLogFile=$BED/log/slurmctld.log
SlurmdLogFile=$BED/log/slurmd-%n.log
SlurmctldDebug=info
SlurmdDebug=info
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=5,batch_sched_delay=0,bf_min_age_reserve=0,requeue_delay=1,max_rpc_cnt=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PreemptExemptTime=0
JobRequeue=1
ReturnToService=2
SlurmdTimeout=20
SlurmctldTimeout=10
InactiveLimit=0
KillWait=5
MinJobAge=300
Waittime=0
OverTimeLimit=0
MaxArraySize=1001
GresTypes=gpu
SlurmdParameters=config_overrides
JobCompType=jobcomp/filetxt
JobCompLoc=$BED/log/jobcomp.txt
`
