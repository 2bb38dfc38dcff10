package slurm

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock/penstock/tests/installation"
	"github.com/penstock/penstock/tests/slurm/testbed"
	"github.com/penstock/penstock/tests/traffic"
)

// The tests of this file serve inside one allocation: `penstock render FILE | sbatch` and nothing else.

// render prints the script of a deployment into a file of Alice's, as a person may have edited it.
func (w *world) render(deployment string, edit func(string) string, flags ...string) (script string) {
	w.t.Helper()
	text := w.must(append([]string{"render", w.file("web", deployment)}, flags...)...)
	if edit != nil {
		text = edit(text)
	}
	path, err := w.Write("web.sbatch", text+"\n")
	w.no(err)
	w.no(os.Chown(path, testbed.Alice.UID, testbed.Alice.UID))
	return path
}

// sbatch submits a script with the plain command.
func (w *world) sbatch(script string, options ...string) (job string) {
	w.t.Helper()
	options = append(options, "--parsable", "--chdir="+w.Dir)
	return w.asAlice(append(append([]string{"sbatch"}, options...), script)...)
}

// held is the state folder with that number, of the jobs that one script becomes.
func (w *world) held(number int) string {
	return filepath.Join(w.Dir, "state", "slurm", "web", fmt.Sprintf("state-%d", number))
}

// enter turns to a state folder and waits until the job that has it serves with so many replicas.
func (w *world) enter(state string, replicas int) {
	w.t.Helper()
	w.StateDir = state
	w.until(fmt.Sprintf("%d replicas of %s are ready", replicas, filepath.Base(state)), ready(replicas))
}

// connectByFile makes a client of what the job has written down for people. It reads the file again for each connection, as who
// uses it does after a job has followed another.
func (w *world) connectByFile() *installation.Client {
	w.t.Helper()
	state := w.State()
	info, err := os.Stat(filepath.Join(state, "connect.env"))
	w.no(err)
	if info.Mode().Perm() != 0o600 {
		w.t.Errorf("connect.env has mode %s", info.Mode())
	}
	vars, err := readConnect(state)
	w.no(err)
	transport := &http.Transport{DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return w.dialHeld(ctx, network, state)
	}}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &installation.Client{URL: vars["OPENAI_BASE_URL"], Key: vars["OPENAI_API_KEY"], HTTP: &http.Client{Transport: transport}}
}

func readConnect(state string) (map[string]string, error) {
	text, err := os.ReadFile(filepath.Join(state, "connect.env"))
	vars := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, "export ")), "=")
		vars[name] = strings.Trim(value, "'")
	}
	return vars, err
}

// dialHeld connects to the gateway of the job that has the state folder now.
func (w *world) dialHeld(ctx context.Context, network, state string) (net.Conn, error) {
	vars, err := readConnect(state)
	if err != nil {
		return nil, err
	}
	at, err := url.Parse(vars["OPENAI_BASE_URL"])
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(vars["SSL_CERT_FILE"])
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	for _, m := range w.bed.All() {
		if m.Name != at.Hostname() {
			continue
		}
		conn, err := w.on.DialContext(ctx, network, net.JoinHostPort(m.Addr, at.Port()))
		if err != nil {
			return nil, err
		}
		secure := tls.Client(conn, &tls.Config{RootCAs: pool, ServerName: m.Name})
		return secure, secure.HandshakeContext(ctx)
	}
	return nil, fmt.Errorf("%s is no machine of the bed", at.Host)
}

// jobState is what Slurm says of a job.
func (w *world) jobState(job string) string {
	out, err := w.bed.Root(w.ctx, "squeue", "-h", "-t", "all", "-j", job, "-o", "%T")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(out)
}

func (w *world) untilJob(job, state string) {
	w.t.Helper()
	w.untilTrue("job "+job+" is "+state, func() bool { return w.jobState(job) == state })
}

// dead ends the traffic whose gateway ends with its job; it counts in the row. What answers then is begun anew.
func (w *world) dead() {
	w.t.Helper()
	w.tr.Dead.Store(true)
	w.tr.Mark()
	w.earlier = append(w.earlier, w.tr)
}

// finishHeld is finish where the controller ends by itself, with the job, once its deployment is stopped.
func (w *world) finishHeld(number int, fault, remark string, jobs ...string) row {
	w.t.Helper()
	w.note("finish")
	r := row{number: number, fault: fault, remark: remark}
	for _, tr := range append(w.earlier, w.tr) {
		if !tr.Over() {
			tr.End()
		}
		r.count(tr)
	}
	r.downtime = w.tr.Downtime()
	w.checkUsage(&r)
	w.stopHeld(jobs...)
	w.checkLeft(&r)
	w.checkLogs()
	r.verify(w.t)
	results.add(r)
	return r
}

// stopHeld stops the deployment of the current state folder, and sees the jobs end in good order.
func (w *world) stopHeld(jobs ...string) {
	w.t.Helper()
	w.must("stop", "web")
	for _, job := range jobs {
		w.untilJob(job, "COMPLETED")
	}
}

// cannotBeTold is what a script must not hold.
var secretWords = []string{"token", "BEGIN", "sk-", "secret="}

// TestRendered: the rendered script, edited by hand, is submitted twice with plain sbatch. Two installations serve side by
// side, and neither knows of the other.
func TestRendered(t *testing.T) {
	w := setup(t, testbed.Options{})
	script := w.render(deployment("gpu", "1h", "serving: {drainTimeout: 10s}"), func(text string) string {
		for _, word := range secretWords {
			if strings.Contains(text, word) {
				t.Errorf("the script speaks of %q", word)
			}
		}
		text = strings.Replace(text, "replicas: 2", "replicas: 3", 1) // of the deployment that it carries
		text = strings.Replace(text, "#SBATCH --nodes=1", "#SBATCH --nodes=2", 1)
		return strings.Replace(text, "--gres=gpu:h100:2", "--gres=gpu:h100:3", 1)
	})
	first, second := w.sbatch(script), w.sbatch(script)
	w.enter(w.held(2), 3)
	other := w.connectByFile()
	w.enter(w.held(1), 3)
	w.client = w.connectByFile()
	if w.client.URL == other.URL || w.client.Key == other.Key {
		t.Fatalf("both jobs have %s", other.URL)
	}
	w.traffic()
	_, err := other.Chat(w.ctx, traffic.Model, []installation.Message{{Role: "user", Content: "hello"}}, nil, nil)
	w.no(err)
	if _, err := (&installation.Client{URL: w.client.URL, Key: other.Key, HTTP: w.client.HTTP}).Chat(w.ctx, traffic.Model, nil, nil, nil); err == nil {
		t.Error("the key of one job is good for the other")
	}
	w.checkOutput(first, second)
	w.tr.Finished(w.ctx, traffic.Streams)
	here := w.StateDir
	w.StateDir = w.held(2)
	job := second
	if w.held(2) != w.stateOf(second) {
		job = first
	}
	w.stopHeld(job)
	w.StateDir = here
	w.tr.Finished(w.ctx, 2*traffic.Streams)
	w.finishHeld(30, "a rendered script, edited by hand, submitted twice with plain sbatch", "two installations side by side; each job ended with `penstock stop`", first, second)
}

// stateOf finds a job's state folder as `penstock --slurm-job` does.
func (w *world) stateOf(job string) string {
	w.t.Helper()
	here := w.StateDir
	defer func() { w.StateDir = here }()
	w.StateDir = ""
	out := w.must("config", "view", "--slurm-job", job)
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "stateDir" {
			return f[1]
		}
	}
	w.t.Fatalf("no state folder in\n%s", out)
	return ""
}

// checkOutput looks for how to use it in the jobs' output, and for no secret there.
func (w *world) checkOutput(jobs ...string) {
	w.t.Helper()
	for _, job := range jobs {
		text, err := os.ReadFile(filepath.Join(w.Dir, "slurm-"+job+".out"))
		w.no(err)
		w.note("output of job %s:\n%s", job, text)
		if !strings.Contains(string(text), "connect.env") || !strings.Contains(string(text), "--state-dir") {
			w.t.Errorf("job %s does not say how it is used", job)
		}
		if strings.Contains(string(text), w.client.Key) {
			w.t.Errorf("the output of job %s holds a key", job)
		}
	}
}
