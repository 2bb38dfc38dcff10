package render

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/jobspecs"
)

const slurmHead = "apiVersion: penstock/v1\nname: x\nmodel: {id: a/b}\nengine: {kind: sim}\ncluster: slurm\n"

// slurmCases are deployments beyond the examples.
var slurmCases = map[string]string{
	"every-option": slurmHead + `
roles: {mixed: {gpus: {count: 2, type: h100}, cpus: 16, memory: 100500KiB}}
slurm:
  partition: gpu,spare
  account: proj42
  qos: serving
  time: 90s
  constraint: "ib&(h100|h200)"
  reservation: maintenance
  setup: ["module load slurm", "export NCCL_DEBUG=INFO\nulimit -l unlimited"]
  sbatch: [--exclusive, "--comment={\"keep\": true} #1", --exclude=bad1, "--licenses=a\\b", -H, -w node7]`,
	"gpus-per-node": slurmHead + "roles: {mixed: {nodes: 3, gpus: 4}}\nslurm: {gpuOption: gpus-per-node}\n",
	"own-gres":      slurmHead + "roles: {mixed: {gpus: 4}}\nslurm: {gpuOption: none, sbatch: [\"--gres=gpu:a100_80:4,lscratch:100\"]}\n",
}

func slurmJob(d jobspecs.Deployment, role jobspecs.RoleKind) SlurmJob {
	return SlurmJob{
		Deployment: d, Role: role, Launch: d.Name + "-" + string(role) + "-0-k3v9x2mq", Mark: "penstock:0123456789ab:" + d.Name,
		Penstock: "/home/ada/bin/penstock", JoinFile: "/home/ada/.local/state/penstock/join/x.json", LogDir: "/home/ada/.local/state/penstock/logs/x",
	}
}

func TestSbatchGolden(t *testing.T) {
	t.Parallel()
	jobs := map[string]SlurmJob{}
	add := func(name string, d jobspecs.Deployment) {
		for role := range d.Roles {
			jobs["slurm-"+name+"-"+string(role)] = slurmJob(d, role)
		}
	}
	for name, text := range slurmCases {
		add(name, parse(t, name, text))
	}
	files, err := filepath.Glob("../examples/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if d := parse(t, file, string(src)); d.Cluster == jobspecs.SlurmCluster {
			add("example-"+strings.TrimSuffix(filepath.Base(file), ".yaml"), d)
		}
	}
	handover := jobs["slurm-every-option-mixed"]
	handover.After, handover.Exclude, handover.KillWait, handover.GPUType = "4711", []string{"node3", "node5"}, time.Minute, "h100_80gb"
	handover.JoinFile, handover.LogDir = "/home/it's \"me\" $HOME/join #1.json", `/home/it's "me" 100%j\/logs`
	jobs["slurm-handover"] = handover
	for name, j := range jobs {
		got, err := Sbatch(j)
		if err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", name+".sh")
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", golden, diff)
		}
	}
}

func TestSbatchRefuses(t *testing.T) {
	t.Parallel()
	d := parse(t, "x", slurmHead+"roles: {mixed: {}}\n")
	if _, err := Sbatch(slurmJob(d, jobspecs.Prefill)); err == nil || !strings.Contains(err.Error(), "has no role prefill") {
		t.Errorf("got %v", err)
	}
	j := slurmJob(d, jobspecs.Mixed)
	j.LogDir = "/a\n#SBATCH --uid=0"
	if _, err := Sbatch(j); err == nil || !strings.Contains(err.Error(), "on one line") {
		t.Errorf("got %v", err)
	}
}

// TestDirective: sbatch reads back the very value, whatever it holds.
func TestDirective(t *testing.T) {
	t.Parallel()
	piece := rapid.OneOf(rapid.SampledFrom([]string{`"`, `'`, `\`, "#", " ", "\t", "=", "--x=", "%j", "$(x)"}), rapid.StringMatching(`[ -~]{0,6}`))
	rapid.Check(t, func(t *rapid.T) {
		value := strings.Join(rapid.SliceOfN(piece, 0, 6).Draw(t, "pieces"), "")
		value = strings.TrimLeft(value, " ")
		if got, want := sbatchWords(directive("--comment="+value)), []string{"--comment=" + value}; !slices.Equal(got, want) {
			t.Fatalf("%q became %q", want, got)
		}
		if got, want := sbatchWords(directive("-x "+value)), []string{"-x", value}; !slices.Equal(got, want) {
			t.Fatalf("%q became %q", want, got)
		}
	})
}

// sbatchWords takes an #SBATCH line apart as sbatch was found to do it (22.05, 24.11): quotes of both kinds, backslashes that
// take any next character as it is but do not keep a blank from ending the word outside of quotes, and # for a comment.
func sbatchWords(line string) (words []string) {
	var b strings.Builder
	var quoted byte
	begun := false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && i+1 < len(line):
			i++
			if quoted == 0 && (line[i] == ' ' || line[i] == '\t') {
				i--
				continue
			}
			b.WriteByte(line[i])
			begun = true
		case quoted != 0 && c == quoted:
			quoted = 0
		case quoted == 0 && (c == '"' || c == '\''):
			quoted, begun = c, true
		case quoted == 0 && c == '#':
			i = len(line)
		case quoted == 0 && (c == ' ' || c == '\t'):
			if begun {
				words = append(words, b.String())
				b.Reset()
			}
			begun = false
		default:
			b.WriteByte(c)
			begun = true
		}
	}
	if begun {
		words = append(words, b.String())
	}
	return words
}

// TestSbatchScriptRuns: in bash, with stand-ins for srun and the agent, rank 0 takes the shell's place, the others get srun's
// environment and options, and all of them one nonce.
func TestSbatchScriptRuns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	agent := filepath.Join(dir, "it's penstock")
	write(t, agent, "#!/bin/bash\nrecord=\"$RECORD.$$\"\nprintf '%s\\n' \"$PENSTOCK_LAUNCH\" \"$PENSTOCK_RUN\" \"$SLURM_JOB_END_TIME\" \"$@\" >\"$record.tmp\"\n"+
		"echo \"this is $PENSTOCK_LAUNCH\"\nmv \"$record.tmp\" \"$record\"\nuntil [ -e \"$RECORD.go\" ] || [ ! -e \"$record\" ]; do sleep 0.01; done\ncase \"$*\" in *first-rank*) exit 0 ;; esac\nexit 7\n", 0o700)
	write(t, filepath.Join(dir, "srun"), "#!/bin/bash\nprintf '%s\\n' \"$@\" >\"$RECORD.srun\"\nwhile [ \"${1#-}\" != \"$1\" ]; do shift; done\nexec \"$@\"\n", 0o700)
	write(t, filepath.Join(dir, "squeue"), "#!/bin/bash\n[ \"$SLURM_TIME_FORMAT\" = %s ] && echo 1795520815\n", 0o700)
	d := parse(t, "x", slurmHead+"roles: {mixed: {nodes: 3, gpus: 1}}\nslurm: {setup: [\"export FROM_SETUP=1\", \"false\"]}\n")
	j := slurmJob(d, jobspecs.Mixed)
	j.Penstock, j.JoinFile, j.LogDir = agent, "/join $1 'x'", dir
	text, err := Sbatch(j)
	if err != nil {
		t.Fatal(err)
	}
	script, record := filepath.Join(dir, "script"), filepath.Join(dir, "record")
	write(t, script, text, 0o600)
	cmd := exec.Command("bash", script)
	cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "RECORD=" + record, "SLURM_JOB_ID=42", "SLURM_RESTART_COUNT=2", "SLURM_CPUS_ON_NODE=8", "SLURM_PROCID=0"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first := record + "." + strconv.Itoa(cmd.Process.Pid)
	var rank0, others []string
	for len(rank0) == 0 || len(others) == 0 {
		files, _ := filepath.Glob(record + ".*[0-9]")
		for _, file := range files {
			if file == first {
				rank0 = lines(t, file)
			} else {
				others = lines(t, file)
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	write(t, record+".go", "", 0o600)
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("the script ended with %v, want the agent's exit code 7", err)
	}
	if !regexp.MustCompile(`^42-2-[0-9a-f]{12}$`).MatchString(rank0[1]) || rank0[1] != others[1] {
		t.Errorf("nonces %q and %q", rank0[1], others[1])
	}
	want := []string{j.Launch, rank0[1], "1795520815", "agent", "--cluster", "slurm", "--join", j.JoinFile, "--nodes", "3", "--warning", "2m10s"}
	if diff := cmp.Diff(want, rank0); diff != "" {
		t.Errorf("rank 0 (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(append(want, "--first-rank", "1"), others); diff != "" {
		t.Errorf("others (-want +got):\n%s", diff)
	}
	if got := lines(t, filepath.Join(dir, "agent-1.log")); len(got) != 1 || got[0] != "this is "+j.Launch {
		t.Errorf("the log of rank 1: %q", got)
	}
	srun := lines(t, record+".srun")
	for _, option := range []string{"--relative=1", "--nodes=2", "--cpus-per-task=8", "--export=ALL", "--gpu-bind=none", "--gres=gpu:1", "--kill-on-bad-exit=1", "--overlap"} {
		if !slices.Contains(srun, option) {
			t.Errorf("srun gets no %s: %q", option, srun)
		}
	}
}

func lines(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

func TestSlurmTime(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "", time.Second: "0-00:01:00", 90 * time.Second: "0-00:02:00", time.Hour: "0-01:00:00", 50*time.Hour + time.Minute: "2-02:01:00",
	} {
		if got := slurmTime(d); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
}
