package slurm

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
)

func TestExpandHosts(t *testing.T) {
	t.Parallel()
	for list, want := range map[string]string{
		"": "", "(null)": "", "None assigned": "", "node1": "node1", "a,b": "a,b", "node[1-3,7]": "node1,node2,node3,node7",
		"gpu-[08-11]-ib": "gpu-08-ib,gpu-09-ib,gpu-10-ib,gpu-11-ib", "r[1-2]n[1-2],x": "r1n1,r1n2,r2n1,r2n2,x", "n[1]": "n1",
		"n[": "!", "n]": "!", "n[1-": "!", "n[a]": "!", "n[3-1]": "!", "n[1-2147483647]": "!", "a,,b": "!", "n[[1]]": "!", "n[]": "!",
		"n[1-1000]m[1-1000]": "!",
	} {
		got, err := expandHosts(list)
		if want == "!" && err == nil || want != "!" && (err != nil || strings.Join(got, ",") != want) {
			t.Errorf("%q: %q, %v, want %s", list, got, err, want)
		}
	}
}

func TestGPUsOf(t *testing.T) {
	t.Parallel()
	for gres, want := range map[string]string{
		"(null)": "", "": "", "gpu:2": "/,/", "gpu:h100:1(S:0-1)": "h100/", "gpu:a100:1(S:0,1),gpu:v100:1": "a100/,v100/",
		"lscratch:100,gpu:a100_3g.20gb:1,mps:400": "a100_3g.20gb/", "gpu:h100:x": "", "gpu:0": "", "gpu:99999999999999999999": "",
	} {
		var got []string
		for _, g := range gpusOf("n", gres) {
			got = append(got, g.Type+"/")
		}
		if strings.Join(got, ",") != want {
			t.Errorf("%q: %q, want %s", gres, got, want)
		}
	}
	if n := len(gpusOf("n", "gpu:h100:4000000000")); n != maxGPUs {
		t.Errorf("%d cards on one node are believed", n)
	}
}

func TestIsUp(t *testing.T) {
	t.Parallel()
	for state, want := range map[string]bool{
		"idle": true, "mixed": true, "allocated": true, "allocated+": true, "completing": true, "idle~": true, "mixed#": true, "planned": true,
		"reserved": true, "mixed-": true, "idle*": false, "down": false, "down*": false, "drained": false, "draining": false, "drng": false,
		"fail": false, "failing": false, "unknown": false, "maint": false, "inval": false, "": false, "rebooting": false, "power_down": false,
	} {
		if got := isUp(state); got != want {
			t.Errorf("%q: up %v", state, got)
		}
	}
}

func TestPendingReasonsInWords(t *testing.T) {
	t.Parallel()
	now := time.Unix(1795522800, 0)
	for reason, want := range map[string]string{
		"Priority": "jobs of higher priority go first (Priority)", "": "Slurm gives no reason", "FluxCapacitor": "Slurm's reason is FluxCapacitor",
		"ReqNodeNotAvail, UnavailableNodes:node2":                                                       "a node that it needs is not available",
		"Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions":   "the nodes that it needs are down, drained, or kept",
		"(Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_partitions)": "the nodes that it needs are down, drained, or kept",
		"AssocGrpGRES": "a limit of your account is reached", "MaxGRESPerAccount": "a limit of your account or QOS is reached",
		"PartitionTimeLimit": "lower slurm.time",
	} {
		if got := waitWords("PENDING", reason, time.Time{}, now); !strings.Contains(got, want) || !strings.Contains(got, " ") {
			t.Errorf("%q: %q, want %q", reason, got, want)
		}
	}
	for reason, want := range map[string]bool{
		"QOSMaxJobsPerUserLimit": true, "AssocGrpCpuLimit": true, "Priority": false, "Resources": false, "QOSNotAllowed": false, "Dependency": false,
	} {
		if limit, is := limitedBy(reason); is != want || is && limit != reason {
			t.Errorf("%s: limit %q, %v", reason, limit, is)
		}
	}
	for d, want := range map[time.Duration]string{
		time.Minute: "some minutes", 31 * time.Minute: "about 30 minutes", 5 * time.Hour: "about 5 hours", 72 * time.Hour: "about 3 days",
	} {
		if got := waitWords("PENDING", "Priority", now.Add(d), now); !strings.HasSuffix(got, "expects a start in "+want) {
			t.Errorf("%s: %q", d, got)
		}
	}
}

func TestGPUType(t *testing.T) {
	t.Parallel()
	c := &Cluster{gpuTypes: map[string]bool{"nvidia_h100_80gb_hbm3": true, "nvidia_h100_nvl": true, "a100": true, "": true}}
	for wanted, want := range map[string]string{"": "", "a100": "a100", "A100": "a100", "H100": "nvidia_h100_nvl", "v100": ""} {
		if got := c.gpuType(wanted); got != want {
			t.Errorf("%q: %q, want %q", wanted, got, want)
		}
	}
}

func TestNewChecks(t *testing.T) {
	t.Parallel()
	good := Options{Installation: installation, LogRoot: "/logs", Penstock: "/bin/penstock", Environ: []string{}}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*Options){
		"installation": func(o *Options) { o.Installation = "x" }, "folder": func(o *Options) { o.LogRoot = "logs" },
		"program": func(o *Options) { o.Penstock = "/bin/pen\nstock" }, "environment": func(o *Options) { o.Environ = nil },
	} {
		o := good
		spoil(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestPresent(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	env := []string{"PATH=" + f.dir + ":" + os.Getenv("PATH")}
	f.works("scontrol", "Slurmctld(primary) at login is DOWN\n")
	f.write("scontrol.rc", "1")
	if err := Present(t.Context(), env); err != nil {
		t.Errorf("a controller that is down: %v", err)
	}
	f.works("scontrol", "")
	f.fails("scontrol", "Could not establish a configuration source")
	if err := Present(t.Context(), env); err == nil || !strings.Contains(err.Error(), "configuration source") {
		t.Errorf("no cluster: %v", err)
	}
}

// FuzzQueue: what comes from squeue is read whole, or refused; nothing of it breaks the adapter.
func FuzzQueue(f *testing.F) {
	for _, release := range []string{"22.05", "24.11", "26.05"} {
		for _, name := range []string{"squeue", "sinfo"} {
			text, err := os.ReadFile(filepath.Join("testdata", release, name+".txt"))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(text))
		}
	}
	f.Add(row("NodeList=a[1-9],b", "exit_code=65280"))
	c := &Cluster{o: Options{Installation: installation, LogRoot: "/logs"}, known: map[jobKey]*record{}, stopping: map[jobKey]*stop{}, now: time.Now}
	f.Fuzz(func(t *testing.T, text string) {
		_, _ = parseNodes(text)
		_, _ = parseConfig(text)
		_ = parseAccounts(text)
		_ = submittedID(text)
		entries, err := parseQueue(text)
		if err == nil && len(entries) != strings.Count(text, separator)/len(queueFields) {
			t.Fatalf("%d jobs of %d fields", len(entries), strings.Count(text, separator))
		}
		for _, e := range entries {
			launch := c.launchOf(e.comment, e.workDir)
			j := c.jobOf(e, launch, time.Unix(1795522800, 0))
			if !slices.Contains([]cluster.JobState{cluster.JobPending, cluster.JobRunning, cluster.JobEnding, cluster.JobEnded, cluster.JobUnknown}, j.State) {
				t.Fatalf("state %q", j.State)
			}
			if launch != "" && !launchIDs.MatchString(string(launch)) {
				t.Fatalf("launch %q", launch)
			}
		}
	})
}

// FuzzHosts: a list of nodes stands for no more than a cluster can have.
func FuzzHosts(f *testing.F) {
	for _, s := range []string{"node[1-3,7]", "r[01-10]n[1-4],x", "n[", "a[1-131072]", "[1][2][3]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, list string) {
		names, err := expandHosts(list)
		if err == nil && (len(names) > maxHosts || slices.Contains(names, "")) {
			t.Fatalf("%d nodes", len(names))
		}
	})
}
