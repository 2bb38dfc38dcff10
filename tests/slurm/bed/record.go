package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/penstock/penstock/tests/slurm/testbed"
)

// record builds a bed, has its slurmrestd answer, and writes the answers into a folder, under names that say what they are.
func record(ctx context.Context, flags *flag.FlagSet, args []string) (err error) {
	version := flags.String("version", "", "Slurm release: 24.11 or 26.05 (default: this machine's own)")
	_ = flags.Parse(args)
	if flags.NArg() != 1 {
		return errors.New("name the folder for the answers")
	}
	b, err := testbed.Up(ctx, testbed.Options{Version: *version})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Down()) }()
	token, err := b.Token(ctx, testbed.Alice, time.Hour)
	if err != nil {
		return err
	}
	r := recorder{b, flags.Arg(0), token, &http.Client{Transport: &http.Transport{DialContext: b.Login().DialContext, DisableKeepAlives: true}}}
	return r.all(ctx)
}

type recorder struct {
	bed    *testbed.Bed
	dir    string
	token  string
	client *http.Client
}

// all submits jobs that end in the ways there are, and asks about everything.
func (r recorder) all(ctx context.Context) error {
	parser, slash := "v0.0.42", "/"
	if strings.HasPrefix(r.bed.Release(), "22.") {
		parser, slash = "v0.0.38", ""
	}
	sbatch := func(options ...string) (string, error) {
		base := []string{"sbatch", "--parsable", "-n1", "-o", "/dev/null", "--comment=penstock:0123456789ab:" + strings.Trim(options[0], "-")}
		return r.bed.RunAs(ctx, testbed.Alice, append(base, options[1:]...)...)
	}
	var ids []string
	for _, options := range [][]string{
		{"running", "-N2", "-n2", "--gres=gpu:h100:2", "-t", "10", "--wrap", "sleep 600"},
		{"failed", "--wrap", "exit 3"},
		{"killed", "--wrap", "kill -9 $$"},
		{"held", "-H", "--wrap", "true"},
		{"later", "--begin=now+1hour", "--wrap", "true"},
		{"cancelled", "-p", "preempt", "-t", "UNLIMITED", "--wrap", "sleep 600"},
	} {
		id, err := sbatch(options...)
		if err != nil {
			return err
		}
		ids = append(ids, id)
	}
	if err := r.bed.Until(ctx, "the jobs are as they shall be", func() (bool, error) {
		out, err := r.bed.Root(ctx, "squeue", "-h", "-t", "all", "-o", "%T")
		return strings.Count(out, "RUNNING") == 2 && strings.Count(out, "FAILED") == 2, err
	}); err != nil {
		return err
	}
	for _, q := range []struct{ name, method, path, body string }{
		{"ping", http.MethodGet, "/ping" + slash, ""},
		{"cancel", http.MethodDelete, "/job/" + ids[5], ""},
		{"jobs", http.MethodGet, "/jobs" + slash, ""},
		{"nodes", http.MethodGet, "/nodes" + slash, ""},
		{"partitions", http.MethodGet, "/partitions" + slash, ""},
		{"unknown", http.MethodGet, "/job/99999", ""},
		{"cancel-unknown", http.MethodDelete, "/job/99999", ""},
		{"cancel-again", http.MethodDelete, "/job/" + ids[1], ""},
		{"submit-refused", http.MethodPost, "/job/submit", `{"script":"#!/bin/bash\n","job":{"partition":"nowhere","current_working_directory":"/tmp","environment":ENV}}`},
		{"submit", http.MethodPost, "/job/submit", `{"script":"#!/bin/bash\n","job":{"current_working_directory":"/tmp","environment":ENV}}`},
	} {
		env := `["A=B"]`
		if slash == "" {
			env = `{"A":"B"}`
		}
		if err := r.ask(ctx, q.name, q.method, "/slurm/"+parser+q.path, strings.ReplaceAll(q.body, "ENV", env)); err != nil {
			return err
		}
	}
	return r.ask(ctx, "no-parser", http.MethodGet, "/slurm/v0.0.1/ping", "")
}

// ask writes one answer, with its HTTP status on the first line.
func (r recorder) ask(ctx context.Context, name, method, path, body string) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+testbed.RESTAddr+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("X-SLURM-USER-NAME", testbed.Alice.Name)
	req.Header.Set("X-SLURM-USER-TOKEN", r.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	out := fmt.Sprintf("%d\n%s", resp.StatusCode, strings.ReplaceAll(string(text), r.bed.Dir, "/bed"))
	return os.WriteFile(filepath.Join(r.dir, "rest-"+name+".txt"), []byte(out), 0o644)
}
