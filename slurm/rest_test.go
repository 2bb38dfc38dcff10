package slurm

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/penstock/penstock/scheduler/cluster"
)

var releases = []string{"22.05", "24.11", "26.05"}

// recorded is an answer that a real slurmrestd gave: its HTTP status and its body.
func recorded(t testing.TB, release, name string) (code int, body string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", release, "rest-"+name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	first, body, _ := strings.Cut(string(text), "\n")
	code, err = strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	return code, body
}

// restd stands in for slurmrestd: it plays recorded answers, or those that a test sets, and notes what it was asked.
type restd struct {
	t       *testing.T
	release string
	c       *Cluster
	socket  string

	mu      sync.Mutex
	answers map[string]answer // by method and path
	asked   []string
	bodies  []string
	headers http.Header
}

type answer struct {
	code int
	body string
}

func newRestd(t *testing.T, release string) *restd {
	t.Helper()
	dir, err := os.MkdirTemp("", "restd") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	d := &restd{t: t, release: release, socket: filepath.Join(dir, "s"), answers: map[string]answer{}}
	l, err := net.Listen("unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(d)
	_ = s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	parser, slash := parserNew, "/"
	if release == "22.05" {
		parser, slash = parserOld, ""
	}
	for path, name := range map[string]string{
		"GET /ping" + slash: "ping", "GET /jobs" + slash: "jobs", "GET /nodes" + slash: "nodes", "GET /partitions" + slash: "partitions",
		"POST /job/submit": "submit", "GET /job/99999": "unknown", "DELETE /job/1": "cancel",
	} {
		method, rest, _ := strings.Cut(path, " ")
		code, body := recorded(t, release, name)
		d.answers[method+" /slurm/"+parser+rest] = answer{code, body}
	}
	d.c = d.open(&REST{Socket: d.socket})
	return d
}

func (d *restd) open(at *REST) *Cluster {
	d.t.Helper()
	c, err := New(Options{
		Installation: installation, LogRoot: filepath.Join(d.t.TempDir(), "logs"), Penstock: "/opt/penstock", Log: zerolog.Nop(), REST: at,
		Environ: []string{"PATH=/usr/bin:/bin", "HOME=/home/alice", "SLURM_CONF=/etc/slurm.conf", "AWS_SECRET_ACCESS_KEY=s3cr3t"},
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return c
}

func (d *restd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	d.mu.Lock()
	line := r.Method + " " + r.URL.RequestURI()
	d.asked, d.bodies, d.headers = append(d.asked, line), append(d.bodies, string(body)), r.Header
	a, ok := d.answers[r.Method+" "+r.URL.Path]
	d.mu.Unlock()
	if !ok {
		_, text := recorded(d.t, d.release, "no-parser")
		a = answer{http.StatusNotFound, text}
	}
	if a.code == 0 { // cut off
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(a.code)
	_, _ = io.WriteString(w, a.body)
}

// set changes what is answered to a method and the path behind the parser.
func (d *restd) set(method, path string, a answer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, parser := range []string{parserNew, parserOld} {
		if (parser == parserOld) == (d.release == "22.05") {
			d.answers[method+" /slurm/"+parser+path] = a
		}
	}
}

// mine makes recorded jobs this process's user's.
func mine(body string) string {
	return strings.ReplaceAll(body, `"user_id": 64001`, `"user_id": `+strconv.Itoa(os.Geteuid()))
}

func TestRecordedREST(t *testing.T) {
	t.Parallel()
	for _, release := range releases {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			d := newRestd(t, release)
			path := "/jobs"
			if release != "22.05" {
				path += "/"
			}
			_, body := recorded(t, release, "jobs")
			if jobs, err := d.c.Jobs(t.Context()); os.Geteuid() != 64001 && (err != nil || len(jobs) > 0) {
				t.Errorf("another user's jobs: %+v, %v", jobs, err)
			}
			d.set(http.MethodGet, path, answer{http.StatusOK, mine(body)})
			jobs, err := d.c.Jobs(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got := map[cluster.LaunchID]cluster.Job{}
			for _, j := range jobs {
				got[j.Launch] = j
			}
			running := got["running"]
			if running.State != cluster.JobRunning || len(running.Nodes) != 2 || running.EndsAt.Sub(running.Started) != 10*time.Minute {
				t.Errorf("running: %+v", running)
			}
			for launch, want := range map[cluster.LaunchID]cluster.Exit{"failed": {Code: 3}, "killed": {Signal: 9}} {
				if j := got[launch]; j.State != cluster.JobEnded || j.Exit == nil || *j.Exit != want || j.Ended.IsZero() {
					t.Errorf("%s: %+v, exit %+v", launch, j, j.Exit)
				}
			}
			for launch, words := range map[cluster.LaunchID]string{"held": "you hold it", "later": "begin time"} {
				if j := got[launch]; j.State != cluster.JobPending || !strings.Contains(j.Reason, words) || len(j.Nodes) > 0 {
					t.Errorf("%s: %+v", launch, j)
				}
			}
			if j := got["cancelled"]; j.State != cluster.JobEnding && j.State != cluster.JobEnded || !j.EndsAt.IsZero() {
				t.Errorf("cancelled: %+v", j)
			}
			capacity, err := d.c.Capacity(t.Context())
			if err != nil || len(capacity.Nodes) != 4 || len(capacity.Nodes[0].GPUs) != 8 || !capacity.Nodes[3].Up || capacity.Nodes[0].Memory != 256000<<20 {
				t.Errorf("capacity %+v, %v", capacity, err)
			}
			parts, err := d.c.Partitions(t.Context())
			want := Partition{Name: "gpu", Default: true, Up: true, MaxTime: 24 * time.Hour, Groups: []NodeGroup{{Nodes: 4, CPUs: 32, Memory: 256000 << 20, GPUs: map[string]int{"h100": 8}}}}
			if err != nil || len(parts) != 3 || !cmp.Equal(parts[0], want) || parts[1].MaxTime != 0 {
				t.Errorf("partitions %+v, %v", parts, err)
			}
			if config, err := d.c.Config(t.Context()); err != nil || !strings.HasPrefix(config.Version, release) {
				t.Errorf("config %+v, %v", config, err)
			}
		})
	}
}

func TestRESTSubmit(t *testing.T) {
	t.Parallel()
	for _, release := range releases {
		d := newRestd(t, release)
		sub := newFake(t).submission("web-mixed-0-aaaaaaaa")
		sub.Launch.Exclude, sub.Launch.After = []string{"node[2-3]"}, "41"
		sub.Deployment.Slurm.Sbatch = []string{"--nice=7", "--comment=\"x\" #y"}
		id, err := d.c.Submit(t.Context(), sub)
		if err != nil || !isJobID(id) {
			t.Fatalf("%s: job %q, %v", release, id, err)
		}
		var got struct {
			Script string
			Job    map[string]any
		}
		if err := json.Unmarshal([]byte(d.bodies[len(d.bodies)-1]), &got); err != nil {
			t.Fatal(err)
		}
		want := map[string]any{
			"name": "web-mixed-0-aaaaaaaa", "comment": "penstock:0123456789ab:web-mixed-0-aaaaaaaa \"x\" #y", "partition": "gpu", "nice": 7.0, "tasks": 1.0,
			"tasks_per_node": 1.0, "dependency": "afterany:41", "current_working_directory": sub.LogDir, "standard_output": sub.LogDir + "/agent-0.log",
		}
		if release == "22.05" {
			want["environment"] = map[string]any{"PATH": "/usr/bin:/bin", "HOME": "/home/alice", "SLURM_CONF": "/etc/slurm.conf"}
			want["nodes"], want["gres"], want["no_requeue"], want["open_mode"] = 1.0, "gpu:H100:1", true, "append"
		} else {
			want["environment"] = []any{"PATH=/usr/bin:/bin", "HOME=/home/alice", "SLURM_CONF=/etc/slurm.conf"}
			want["nodes"], want["tres_per_node"], want["requeue"], want["open_mode"] = "1", "gres/gpu:H100:1", false, []any{"APPEND"}
			want["excluded_nodes"] = []any{"node2", "node3"}
			want["kill_warning_signal"], want["kill_warning_flags"] = "USR2", []any{"BATCH_JOB"}
		}
		for field, value := range want {
			if diff := cmp.Diff(value, got.Job[field]); diff != "" {
				t.Errorf("%s: %s (-want +got):\n%s", release, field, diff)
			}
		}
		if !strings.HasPrefix(got.Script, "#!/bin/bash\n") || strings.Contains(d.bodies[len(d.bodies)-1], "s3cr3t") {
			t.Errorf("%s: the request is %s", release, d.bodies[len(d.bodies)-1])
		}
	}
}

// TestRESTSubmitFails: what slurmrestd refuses has left no job; of anything else nobody knows.
func TestRESTSubmitFails(t *testing.T) {
	t.Parallel()
	refusedCode, refusedBody := recorded(t, "24.11", "submit-refused")
	for name, c := range map[string]struct {
		answer answer
		option string
		is     error
		says   string
	}{
		"no such partition": {answer{refusedCode, refusedBody}, "", cluster.ErrRefused, "slurm.partition"},
		"token":             {answer{401, "Authentication failure"}, "", cluster.ErrRefused, "scontrol token"},
		"slurmctld away":    {answer{500, `{"errors":[{"error":"Unable to contact slurm controller (connect failure)","error_number":1800}]}`}, "", cluster.ErrUnknown, "contact"},
		"a proxy's page":    {answer{502, "<html>bad gateway"}, "", cluster.ErrUnknown, "502"},
		"cut off":           {answer{}, "", cluster.ErrUnknown, "slurmrestd"},
		"half an answer":    {answer{200, `{"job_id": 4`}, "", cluster.ErrUnknown, "EOF"},
		"no job":            {answer{200, `{"errors":[]}`}, "", cluster.ErrUnknown, "no job ID"},
		"unknown option":    {answer{200, `{"job_id": 4}`}, "--frobnicate=1", cluster.ErrRefused, "--frobnicate"},
	} {
		d := newRestd(t, "24.11")
		d.set(http.MethodPost, "/job/submit", c.answer)
		sub := newFake(t).submission("web-mixed-0-aaaaaaaa")
		if c.option != "" {
			sub.Deployment.Slurm.Sbatch = []string{c.option}
		}
		if _, err := d.c.Submit(t.Context(), sub); !errors.Is(err, c.is) || errors.Is(err, cluster.ErrRefused) && errors.Is(err, cluster.ErrUnknown) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %v with %q", name, err, c.is, c.says)
		}
	}
	d := newRestd(t, "24.11")
	gone := d.open(&REST{Socket: filepath.Join(t.TempDir(), "gone")})
	if _, err := gone.Submit(t.Context(), newFake(t).submission("web-mixed-0-aaaaaaaa")); !errors.Is(err, cluster.ErrUnknown) {
		t.Errorf("slurmrestd is down: %v", err)
	}
}

// TestRESTLists: a list that cannot be read whole is no list.
func TestRESTLists(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"cut off": `{"jobs":[{"job_id":1,"job_state":["RUNNING"]}`, "no list": `{"errors":[]}`, "errors": `{"jobs":null,"errors":[{"error":"x"}]}`,
		"no ID": `{"jobs":[{"job_state":["RUNNING"],"user_id":UID}]}`, "no state": `{"jobs":[{"job_id":1,"job_state":[],"user_id":UID}]}`, "another thing": `[]`,
	} {
		d := newRestd(t, "24.11")
		d.set(http.MethodGet, "/jobs/", answer{200, strings.ReplaceAll(body, "UID", strconv.Itoa(os.Geteuid()))})
		if jobs, err := d.c.Jobs(t.Context()); !errors.Is(err, cluster.ErrUnknown) {
			t.Errorf("%s: %+v, %v", name, jobs, err)
		}
	}
}

// TestRESTStop: the agent alone gets Penstock's signal where that can be had; an ID that has another job's name is left alone.
func TestRESTStop(t *testing.T) {
	t.Parallel()
	running := func(name string) answer {
		return answer{200, mine(`{"jobs":[{"job_id":1,"job_state":["RUNNING"],"name":"` + name + `","comment":"penstock:0123456789ab:web","user_id": 64001}]}`)}
	}
	for _, c := range []struct {
		release, name string
		grace         time.Duration
		want          string // the last question
	}{
		{"24.11", "web", time.Minute, "DELETE /slurm/v0.0.42/job/1?signal=USR1&flags=BATCH_JOB"},
		{"24.11", "web", 10 * time.Second, "DELETE /slurm/v0.0.42/job/1"},
		{"24.11", "web", 0, "DELETE /slurm/v0.0.42/job/1?signal=KILL"},
		{"24.11", "train", 0, "GET /slurm/v0.0.42/job/1"},
		{"22.05", "web", time.Minute, "GET /slurm/v0.0.38/ping"},
		{"22.05", "web", 10 * time.Second, "DELETE /slurm/v0.0.38/job/1"},
	} {
		d := newRestd(t, c.release)
		d.set(http.MethodGet, "/job/1", running(c.name))
		if err := d.c.Stop(t.Context(), "1", c.grace); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
		if got := d.asked[len(d.asked)-1]; got != c.want {
			t.Errorf("%+v: asked %q", c, d.asked)
		}
	}
	for _, release := range releases {
		d := newRestd(t, release)
		if err := d.c.Stop(t.Context(), "99999", time.Minute); err != nil {
			t.Errorf("%s: a job that is not known: %v", release, err)
		}
		for _, name := range []string{"cancel-again", "cancel-unknown"} {
			code, body := recorded(t, release, name)
			d.set(http.MethodGet, "/job/1", running("web"))
			d.set(http.MethodDelete, "/job/1", answer{code, body})
			if err := d.c.Stop(t.Context(), "1", 0); err != nil {
				t.Errorf("%s: %s: %v", release, name, err)
			}
		}
	}
}

func TestRESTToken(t *testing.T) {
	t.Parallel()
	d := newRestd(t, "24.11")
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("SLURM_JWT=abc.def.ghi\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := d.open(&REST{Socket: d.socket, TokenFile: file})
	if _, err := c.Jobs(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := d.headers.Get("X-SLURM-USER-TOKEN"); got != "abc.def.ghi" {
		t.Errorf("token %q", got)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Jobs(t.Context()); err == nil || strings.Contains(err.Error(), "abc.def") {
		t.Errorf("a token that everybody can read: %v", err)
	}
}

func TestRESTHangs(t *testing.T) {
	t.Parallel()
	d := newRestd(t, "24.11")
	release := make(chan struct{})
	l, err := net.Listen("unix", d.socket+"2")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // takes one question and never answers
		c, err := l.Accept()
		if err == nil {
			<-release
			_ = c.Close()
		}
	}()
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := d.open(&REST{Socket: d.socket + "2"}).Jobs(ctx); !errors.Is(err, cluster.ErrUnknown) {
		t.Errorf("got %v", err)
	}
}

func TestParseREST(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ at, token, says string }{
		{"unix:/run/slurmrestd/s", "", ""},
		{"https://slurm.example:6820", "/home/a/token", ""},
		{"http://127.0.0.1:6820/", "/home/a/token", ""},
		{"unix:relative", "", "absolute"},
		{"unix:/" + strings.Repeat("x", 120), "", "107 bytes"},
		{"https://slurm.example:6820", "", "needs a token"},
		{"http://slurm.example:6820", "/home/a/token", "clear text"},
		{"https://u:p@slurm.example", "/t", "write unix:PATH"},
		{"slurm.example:6820", "/t", "write unix:PATH"},
	} {
		_, err := ParseREST(c.at, c.token)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.at, err, c.says)
		}
	}
}

func TestDirectives(t *testing.T) {
	t.Parallel()
	script := "#!/bin/bash\n# a comment\n#SBATCH --job-name=a\n#SBATCH --comment=\"x \\\"y\\\" \\\\ #z\"\n#SBATCH -w node7\n#SBATCH -H\n#SBATCH --nice 5 # why\n\numask 077\n#SBATCH --qos=late\n"
	want := []option{{"job-name", "a"}, {"comment", `x "y" \ #z`}, {"w", "node7"}, {"H", ""}, {"nice", "5"}}
	got, err := directives(script)
	if err != nil || !cmp.Equal(got, want, cmp.AllowUnexported(option{})) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := directives("#SBATCH --comment=\"x\n"); err == nil {
		t.Error("a quote that does not end")
	}
}

// FuzzREST: whatever is answered, it is read whole or not at all, and what is read is within bounds.
func FuzzREST(f *testing.F) {
	for _, release := range releases {
		for _, name := range []string{"jobs", "nodes", "partitions", "ping", "unknown", "submit-refused", "cancel-unknown", "cancel-again"} {
			_, body := recorded(f, release, name)
			f.Add(body)
		}
	}
	f.Add(`{"jobs":[{"job_id":"7","job_state":"RUNNING","exit_code":{"return_code":3},"start_time":{"set":true,"infinite":true,"number":1e9}}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		entries, err := readJobs(strings.NewReader(text), func(restJob) bool { return true })
		for _, e := range entries {
			if err == nil && (!isJobID(e.id) || e.state == "" || len(e.nodes) > maxHosts || e.exit.code < 0 || e.exit.signal < 0) {
				t.Fatalf("entry %+v", e)
			}
		}
		nodes, err := readNodes(strings.NewReader(text))
		if err == nil && len(nodes) > maxHosts {
			t.Fatalf("%d nodes", len(nodes))
		}
		parts, err := readPartitions(strings.NewReader(text), nodes)
		for _, p := range parts {
			if err == nil && p.MaxTime < 0 {
				t.Fatalf("partition %+v", p)
			}
		}
		if err := refusalOf(500, []byte(text)); err == nil {
			t.Fatal("an answer of 500 is no error")
		}
		var d deleted
		_ = readAnswer(io.NopCloser(strings.NewReader(text)), &d)
		_, _ = directives("#SBATCH " + text)
	})
}
