package slurm

import (
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/jobspecs"
)

const site = "gpu*\x1fup\x1f1-00:00:00\x1f4\x1f32\x1f256000\x1fgpu:nvidia_h100:8(S:0-1)\x1f\n" +
	"gpu*\x1fup\x1f1-00:00:00\x1f1\x1f16\x1f64000\x1fgpu:a100:4\x1f\n" +
	"long\x1fup\x1finfinite\x1f2\x1f32+\x1f256000+\x1f(null)\x1f\nshort\x1fdown\x1f2:00\x1f4\x1f32\x1f256000\x1fgpu:nvidia_h100:8\x1f\n"

func TestCheck(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		"roles: {mixed: {gpus: 8, nodes: 4}}":                                  "",
		"roles: {mixed: {gpus: {count: 4, type: A100}}}":                       "",
		"roles: {mixed: {replicas: 0, gpus: 99}}":                              "",
		"roles: {mixed: {gpus: 8, nodes: 5}}":                                  "roles.mixed: a replica needs 5 nodes with 8 GPUs each, and partition gpu has 4 of them",
		"roles: {mixed: {gpus: {count: 1, type: v100}}}":                       "its nodes have 4 a100, 8 nvidia_h100",
		"roles: {mixed: {gpus: 1, cpus: 64}}":                                  "1 GPU, 64 CPUs each",
		"roles: {mixed: {memory: 1TiB}}":                                       "with 1TiB of memory each, and partition gpu has 0",
		"roles: {mixed: {}}\nslurm: {partition: gpuu}":                         "did you mean gpu?",
		"roles: {mixed: {}}\nslurm: {partition: elsewhere}":                    "choose one of gpu, long, short",
		"roles: {mixed: {}}\nslurm: {time: 2d}":                                "more than partition gpu allows, which is 1d",
		"roles: {mixed: {}}\nslurm: {time: 2d, partition: \"gpu,long\"}":       "",
		"roles: {mixed: {gpus: 1}}\nslurm: {time: 2d, partition: long}":        "has 0 of them",
		"roles: {mixed: {gpus: 1}}\nslurm: {gpuOption: none, partition: long}": "",
	} {
		f := newFake(t)
		f.works("sinfo", site)
		d, err := jobspecs.Parse("x", []byte("apiVersion: penstock/v1\nname: x\nmodel: {id: m}\nengine: {kind: sim}\ncluster: slurm\n"+body+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		errs := f.c.Check(t.Context(), d)
		if got := errs.Err(); (got == nil) != (want == "") || got != nil && !strings.Contains(got.Error(), want) {
			t.Errorf("%s: %v, want %q", body, got, want)
		}
		f.fails("sinfo", "Unable to contact slurm controller (connect failure)")
		if errs := f.c.Check(t.Context(), d); len(errs) > 0 {
			t.Errorf("a Slurm that does not answer is held against the file: %v", errs)
		}
	}
}

func TestParseSpan(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"infinite": 0, "2:00": 2 * time.Minute, "1:30:00": 90 * time.Minute, "1-00:00:00": 24 * time.Hour, "2-12": 60 * time.Hour, "90": 90 * time.Minute,
		"7-00:00:01": 7*24*time.Hour + time.Second,
	} {
		if got, err := parseSpan(text); err != nil || got != want {
			t.Errorf("%q: %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"x", "1:2:3:4", "1-", "-1", "1:x"} {
		if got, err := parseSpan(text); err == nil {
			t.Errorf("%q: %s", text, got)
		}
	}
}
