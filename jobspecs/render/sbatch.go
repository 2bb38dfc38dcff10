package render

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/jobspecs"
)

// SlurmJob is one launch as a Slurm job. Paths are absolute and the same on all nodes.
type SlurmJob struct {
	Deployment jobspecs.Deployment
	Role       jobspecs.RoleKind

	Launch   string // launch token; also the job's name
	Mark     string // what stands first in the job's comment
	Penstock string // the program
	JoinFile string // 0600; the token is in there and nowhere else
	LogDir   string // the job's working folder, where its output goes

	// GPUType is the cluster's own word for the cards; empty = the deployment's.
	GPUType string
	// After is a job ID that must be over first; empty = none.
	After string
	// Exclude names nodes that must not run it.
	Exclude []string
	// KillWait is the time between TERM and KILL, which the site sets; 0 = Slurm's default.
	KillWait time.Duration
}

// The signals of a job. TERM is Slurm's own: KILL follows it after the site's KillWait.
const (
	// DrainSignal is Penstock's word to the agent: finish what is open, in the deployment's own time.
	DrainSignal = "USR1"
	// WarnSignal comes from Slurm before the time limit, and before preemption where the site has set it up.
	WarnSignal = "USR2"
)

// Sbatch is the batch script of one launch, for sbatch to read. Rank 0's agent takes the place of the batch shell, so that
// signals to the shell are signals to it alone and its exit status is the job's; srun starts the others. Slurm kills what
// an srun has started as soon as that srun gets a TERM, which is why rank 0 is not among it.
func Sbatch(j SlurmJob) (string, error) {
	d := j.Deployment
	r, ok := d.Roles[j.Role]
	if !ok {
		return "", fmt.Errorf("render for Slurm: deployment %s has no role %s", d.Name, j.Role)
	}
	options := j.options(r)
	for _, o := range options {
		if strings.ContainsAny(o, "\n\r\x00") {
			return "", fmt.Errorf("render for Slurm: %q is no option on one line", o)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "#!/bin/bash\n# Deployment %s, role %s, revision content %s.\n", d.Name, j.Role, jobspecs.ShortHash(jobspecs.Hash(d)))
	b.WriteString("# Penstock's agent starts the engine, restarts it, drains it, and ends it with all it started. Nothing here is secret.\n")
	for _, o := range options {
		b.WriteString("#SBATCH " + directive(o) + "\n")
	}
	b.WriteString("\numask 077\n")
	j.environment(&b)
	slurmSetup(&b, d.Slurm.Setup)
	if r.Nodes > 1 {
		j.others(&b, r)
	}
	fmt.Fprintf(&b, "\nexec %s\n", command(j.agent(r.Nodes), "  ", nil))
	return b.String(), nil
}

// directive writes an option for an #SBATCH line, where sbatch knows double quotes, backslashes within them, and comments.
// Name and value may be joined by = or stand apart.
func directive(option string) string {
	at := strings.IndexAny(option, "= ")
	if at < 0 {
		return directiveWord(option)
	}
	return directiveWord(option[:at]) + option[at:at+1] + directiveWord(strings.TrimLeft(option[at+1:], " "))
}

func directiveWord(s string) string {
	if directiveSafe(s) {
		return s
	}
	return directiveQuote(s)
}

func directiveSafe(s string) bool { return s != "" && !strings.ContainsAny(s, " \t\"'\\#") }

func directiveQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// sbatchOptions are options of sbatch.
type sbatchOptions []string

// add appends an option that has a value.
func (o *sbatchOptions) add(name, value string) {
	if value != "" {
		*o = append(*o, "--"+name+"="+value)
	}
}

// addSite appends what the file's slurm section asks for.
func (o *sbatchOptions) addSite(s jobspecs.Slurm) {
	o.add("partition", s.Partition)
	o.add("account", s.Account)
	o.add("qos", s.QOS)
	o.add("constraint", s.Constraint)
	o.add("reservation", s.Reservation)
	o.add("time", slurmTime(s.Time.Std()))
}

// addSize appends what each node's task needs beside GPUs; 0 = the site's default.
func (o *sbatchOptions) addSize(cpus int, memory uint64) {
	if cpus > 0 {
		o.add("cpus-per-task", strconv.Itoa(cpus))
	}
	if memory > 0 {
		o.add("mem", strconv.FormatUint((memory+1<<20-1)>>20, 10)+"M")
	}
}

// addWarning appends when the batch shell is told of the job's end.
func (o *sbatchOptions) addWarning(d jobspecs.Deployment) {
	o.add("signal", fmt.Sprintf("B:%s@%d", WarnSignal, warnSeconds(d.Serving.DrainTimeout.Std())))
}

// options are those of sbatch, Penstock's first and the user's last.
func (j SlurmJob) options(r jobspecs.Role) []string {
	list := sbatchOptions{"--job-name=" + j.Launch}
	comment, exclude, rest := j.own(j.Deployment.Slurm.Sbatch)
	list.add("comment", strings.TrimSpace(j.Mark+" "+comment))
	list.addSite(j.Deployment.Slurm)
	list = append(list, "--nodes="+strconv.Itoa(r.Nodes), "--ntasks="+strconv.Itoa(r.Nodes), "--ntasks-per-node=1")
	list.addSize(r.CPUs, uint64(r.Memory))
	list = append(list, j.gpus(r)...)
	list.add("exclude", strings.Join(exclude, ","))
	if j.After != "" {
		list.add("dependency", "afterany:"+j.After)
	}
	list.addWarning(j.Deployment)
	list = append(list, "--no-requeue", "--export=NONE", "--open-mode=append")
	list.add("chdir", j.LogDir)
	list.add("output", pattern(j.LogDir)+"/agent-0.log")
	return append(list, rest...)
}

// own takes out of the user's options what is merged with Penstock's.
func (j SlurmJob) own(options []string) (comment string, exclude, rest []string) {
	exclude = slices.Clone(j.Exclude)
	for _, o := range options {
		switch name := jobspecs.SbatchOption(o); {
		case name == "comment" && strings.HasPrefix(o, "--comment="):
			comment = strings.TrimPrefix(o, "--comment=")
		case name == "exclude" && strings.HasPrefix(o, "--exclude="):
			exclude = append([]string{strings.TrimPrefix(o, "--exclude=")}, exclude...)
		default:
			rest = append(rest, o)
		}
	}
	return comment, exclude, rest
}

// gpus asks for cards in the site's way.
func (j SlurmJob) gpus(r jobspecs.Role) []string {
	kind := r.GPUs.Type
	if j.GPUType != "" {
		kind = j.GPUType
	}
	spec := strconv.Itoa(r.GPUs.Count)
	if kind != "" {
		spec = kind + ":" + spec
	}
	switch option := j.Deployment.Slurm.GPUOption; {
	case r.GPUs.Count == 0 || option == "none":
		return nil
	case option == "gpus-per-node":
		return []string{"--gpus-per-node=" + spec}
	}
	return []string{"--gres=gpu:" + spec}
}

// warnSeconds is how long before the time limit Slurm warns: its clock for that is coarse, by a minute.
func warnSeconds(drain time.Duration) int {
	return int(min((drain+70*time.Second)/time.Second, 65535))
}

// slurmTime writes a time limit; minutes are the least that Slurm knows.
func slurmTime(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	minutes := int((d + time.Minute - 1) / time.Minute)
	return fmt.Sprintf("%d-%02d:%02d:00", minutes/(24*60), minutes/60%24, minutes%60)
}

// pattern protects a path from the replacements of file name patterns.
func pattern(path string) string { return strings.ReplaceAll(path, "%", "%%") }

func (j SlurmJob) environment(b *strings.Builder) {
	fmt.Fprintf(b, "export PENSTOCK_LAUNCH=%s\n", quote(j.Launch))
	b.WriteString("PENSTOCK_RUN=$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}-$(od -An -N6 -tx1 /dev/urandom | tr -d ' ')\nexport PENSTOCK_RUN\n")
	endTime(b)
}

// endTime has the job know when its time is over.
func endTime(b *strings.Builder) {
	b.WriteString("if [ -z \"${SLURM_JOB_END_TIME:-}\" ]; then # older Slurms do not say when the job ends\n" +
		"  SLURM_JOB_END_TIME=$(SLURM_TIME_FORMAT=%s timeout 30 squeue --noheader --job=\"$SLURM_JOB_ID\" --format=%e)\n" +
		"  export SLURM_JOB_END_TIME\nfi\n")
}

// slurmSetup copies the user's lines as they are, and keeps linters off them.
func slurmSetup(b *strings.Builder, lines []string) {
	if len(lines) == 0 {
		return
	}
	b.WriteString("\n# shellcheck disable=all # slurm.setup, the deployment's own lines\n{\n")
	for _, line := range lines {
		b.WriteString(strings.TrimRight(line, "\n") + "\n")
	}
	b.WriteString("}\n")
}

// others starts the agents of the other nodes. When srun fails, rank 0 is told to end; it knows by itself when a rank is
// lost.
func (j SlurmJob) others(b *strings.Builder, r jobspecs.Role) {
	n := strconv.Itoa(r.Nodes - 1)
	cpus := `"--cpus-per-task=$SLURM_CPUS_ON_NODE"`
	if r.CPUs > 0 {
		cpus = "--cpus-per-task=" + strconv.Itoa(r.CPUs)
	}
	srun := []string{
		"srun --overlap --relative=1 --nodes=" + n + " --ntasks=" + n + " --ntasks-per-node=1", cpus,
		"--export=ALL --kill-on-bad-exit=1 --input=none",
	}
	if gpus := j.gpus(r); len(gpus) > 0 {
		srun = append(srun, strings.Join(gpus, " ")+" --gpu-bind=none")
	}
	fmt.Fprintf(b, "\n# Ranks 1 to %s, one on each further node.\n(\n  # shellcheck disable=SC2016 # the ranks expand it\n"+
		"  %s \\\n    bash -c 'exec \"$@\" >>\"$0/agent-$((SLURM_PROCID + 1)).log\" 2>&1' %s \\\n    %s ||\n    kill -s TERM $$\n) &\n", n,
		strings.Join(srun, " \\\n    "), quote(j.LogDir), command(append(j.agent(r.Nodes), "--first-rank", "1"), "      ", nil))
}

// agent is the command line of an agent in a Slurm job; its rank is in Slurm's environment.
func (j SlurmJob) agent(nodes int) []string {
	argv := []string{j.Penstock, "agent", "--cluster", string(jobspecs.SlurmCluster), "--join", j.JoinFile, "--nodes", strconv.Itoa(nodes)}
	if j.KillWait > 0 {
		argv = append(argv, "--kill-wait", j.KillWait.String())
	}
	return append(argv, "--warning", WarningBefore(j.Deployment.Serving.DrainTimeout.Std()).String())
}
