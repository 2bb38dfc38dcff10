package slurm

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/installation"
	"github.com/penstock/penstock/tests/slurm/testbed"
	"github.com/penstock/penstock/tests/traffic"
)

// world is one Slurm cluster, Penstock as Alice installed it there, and what a test has seen.
type world struct {
	*installation.Installation
	bed     *testbed.Bed
	t       *testing.T
	ctx     context.Context
	on      *testbed.Machine // where Alice types
	client  *installation.Client
	prompts *traffic.Catalog
	tr      *traffic.Traffic
	earlier []*traffic.Traffic // of jobs that are over, with their gateways

	gateways []func() // end gateways that are processes of their own
}

// patience bounds each test.
const patience = 6 * time.Minute

// setup builds a bed and puts the program there. Nothing of Penstock runs yet. Tests wait most of the time, so they run side
// by side.
func setup(t *testing.T, opts testbed.Options) *world {
	t.Helper()
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	opts.Version = *release
	b := testbed.ForTest(ctx, t, opts)
	w := &world{bed: b, t: t, ctx: ctx, on: b.Login(), prompts: traffic.Prompts(t)}
	w.Installation = &installation.Installation{
		Dir: filepath.Join(b.Home(testbed.Alice), "ps"), Binary: filepath.Join(b.Dir, "bin", "penstock"),
		Extra: []string{"PENSTOCK_RUNTIME_DIR=/tmp/ps", "TMPDIR=/tmp"},
		On: func(ctx context.Context, env []string, argv ...string) *exec.Cmd {
			return w.on.Command(ctx, testbed.Alice, env, argv...)
		},
	}
	if err := copyFile(w.Binary, installation.Build(t)); err != nil {
		t.Fatal(err)
	}
	w.asAlice("mkdir", "-m", "700", w.Dir)
	t.Cleanup(func() {
		if t.Failed() {
			w.printState()
		}
	})
	return w
}

// copyFile copies a program. A process of its own does it: while this one had the copy open for writing, a child that is being
// started elsewhere would hold it open too, and the program could not be run ("text file busy").
func copyFile(to, from string) error {
	if out, err := exec.Command("install", "-m", "755", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s: %w: %s", from, err, out)
	}
	return nil
}

// start sets up a world whose deployment is ready.
func start(t *testing.T, opts testbed.Options, file string) *world {
	t.Helper()
	w := setup(t, opts)
	w.serve()
	w.deploy(file)
	w.connect()
	return w
}

// deployment is the file of most tests: two replicas of one engine that gives about 90 tokens a second.
func deployment(partition, walltime string, more ...string) string {
	return fmt.Sprintf(`apiVersion: penstock/v1
name: web
cluster: slurm
model: {id: %s}
engine: {kind: sim, args: [--speedup, "0.5"]}
roles: {mixed: {replicas: 2, gpus: 1}}
slurm: {partition: %s, time: %s}
%s
`, traffic.Model, partition, walltime, strings.Join(more, "\n"))
}

// apart makes each replica need all GPUs of a node, so that no two are on one.
func apart(file string) string { return strings.Replace(file, "gpus: 1", "gpus: 8", 1) }

// seconds writes what was measured.
func seconds(what string, d time.Duration) string { return fmt.Sprintf("%s %.0f s", what, d.Seconds()) }

// asAlice runs a command of Slurm or the system as Alice, where she is.
func (w *world) asAlice(argv ...string) string {
	w.t.Helper()
	out, err := w.on.Run(w.ctx, testbed.Alice, argv...)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// asRoot runs a command as the administrator on the login node.
func (w *world) asRoot(argv ...string) string {
	w.t.Helper()
	out, err := w.bed.Root(w.ctx, argv...)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *world) must(args ...string) string {
	w.t.Helper()
	return w.MustRun(w.ctx, w.t, args...)
}

// no fails the test on an error.
func (w *world) no(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// serve starts a controller where Alice is; nodes dial it on the cluster's network.
func (w *world) serve() {
	w.t.Helper()
	w.must("serve", "--detach", "--listen", w.on.Addr+":0")
}

func (w *world) deploy(file string) {
	w.t.Helper()
	w.must("run", "--timeout", "120s", w.file("web", file))
}

// file writes a file of Alice's.
func (w *world) file(name, text string) string {
	w.t.Helper()
	path, err := w.Write(name+".yaml", text)
	w.no(err)
	w.no(os.Chown(path, testbed.Alice.UID, testbed.Alice.UID))
	return path
}

// connect makes a key and a client that dials from where Alice is.
func (w *world) connect() {
	w.t.Helper()
	var err error
	w.client, err = w.Connect(w.ctx, "tests")
	w.no(err)
	transport := &http.Transport{DialContext: w.on.DialContext}
	w.client.HTTP = &http.Client{Transport: transport}
	w.t.Cleanup(transport.CloseIdleConnections)
}

// traffic starts steady traffic and waits until its streams are in the middle.
func (w *world) traffic() {
	w.t.Helper()
	tr := traffic.Begin(w.ctx, w.t, w.client, w.prompts)
	w.tr = tr
	w.t.Cleanup(func() { // where the test gives up
		if !tr.Over() {
			tr.End()
		}
	})
	tr.Middle(w.ctx)
}

// until waits for a status.
func (w *world) until(what string, ok func(installation.Status) bool) installation.Status {
	w.t.Helper()
	st, err := w.Until(w.ctx, what, ok)
	w.no(err)
	w.note("%s", what)
	return st
}

// untilTrue waits for something else.
func (w *world) untilTrue(what string, ok func() bool) {
	w.t.Helper()
	w.no(w.bed.Until(w.ctx, what, func() (bool, error) { return ok(), nil }))
	w.note("%s", what)
}

// note puts a line with the time into the test's log.
func (w *world) note(format string, args ...any) {
	w.t.Helper()
	w.t.Logf("%s %s", time.Now().Format(time.TimeOnly+".000"), fmt.Sprintf(format, args...))
}

// replicas lists the replicas of the deployment.
func (w *world) replicas() []installation.Replica {
	w.t.Helper()
	st, err := w.Status(w.ctx)
	w.no(err)
	return replicasOf(st)
}

func replicasOf(st installation.Status) []installation.Replica {
	for _, d := range st.Deployments {
		if d.Name == "web" {
			return d.Replicas
		}
	}
	return nil
}

// ready is the condition that the deployment has so many ready replicas, none of them of a launch in old.
func ready(n int, old ...string) func(installation.Status) bool {
	return func(st installation.Status) bool {
		count := 0
		for _, r := range replicasOf(st) {
			for _, o := range old {
				if r.Launch == o {
					return false
				}
			}
			if r.State == "ready" {
				count++
			}
		}
		return count == n && len(replicasOf(st)) == n
	}
}

// nodeOf is the machine where a replica's first rank runs.
func (w *world) nodeOf(r installation.Replica) *testbed.Machine {
	w.t.Helper()
	for _, m := range w.bed.All() {
		if len(r.Nodes) > 0 && m.Name == r.Nodes[0] {
			return m
		}
	}
	w.t.Fatalf("replica %s is on no node of the bed: %v", r.Launch, r.Nodes)
	return nil
}

// printState shows what Slurm and Penstock say at the end of a test that failed.
func (w *world) printState() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), 30*time.Second)
	defer cancel()
	for _, argv := range [][]string{{"squeue", "-t", "all", "-o", "%i %P %T %r %S %e %N %k"}, {"sinfo", "-N"}} {
		out, err := w.bed.Root(ctx, argv...)
		w.t.Logf("--- %s\n%s %v", strings.Join(argv, " "), out, err)
	}
	out, err := w.Run(ctx, "status")
	w.t.Logf("--- penstock status\n%s %v", out, err)
	_ = filepath.WalkDir(w.State(), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".log" {
			return nil
		}
		text, _ := os.ReadFile(path)
		w.t.Logf("--- %s\n%s", path, text[max(0, len(text)-6000):])
		return nil
	})
}
