package nomad

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/api"
)

// ofLater are golden files with blocks that servers of the 1.6 line do not know.
var ofLater = []string{"nomad-of-1.8"}

// TestTextLive has a real server parse every rendered job and compares it with the JSON of the same job; then it has the
// server plan it, register it and plan it again.
func TestTextLive(t *testing.T) {
	live := openLive(t)
	if live == nil {
		t.Skip("the live part did not run: NOMAD_ADDR names no Nomad and NOMAD_BIN names no nomad to make a bed of")
	}
	files, err := filepath.Glob("../../jobspecs/render/testdata/nomad-*.nomad.hcl")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	w := newWorld(t, live.client, live.hands)
	w.live = true
	begin, n := time.Now(), 0
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".nomad.hcl")
		if slices.Contains(ofLater, name) {
			continue
		}
		n++
		t.Run(name, func(t *testing.T) { parsed(t, live.client, strings.TrimSuffix(file, ".hcl")) })
	}
	results.note(w, "the server reads rendered HCL as the JSON of the same job; a plan of what is registered shows no change", fmt.Sprintf("%d jobs", n), time.Since(begin))
}

func parsed(t *testing.T, c *api.Client, file string) {
	text, err := os.ReadFile(file + ".hcl")
	check(t, err)
	got, err := c.Jobs().ParseHCL(string(text), true)
	check(t, err)
	want := &api.Job{}
	text, err = os.ReadFile(file + ".json")
	check(t, err)
	check(t, json.Unmarshal(text, &struct{ Job *api.Job }{want}))
	want.Canonicalize()
	got.Canonicalize()
	for _, g := range got.TaskGroups {
		g.Consul = nil // the server's own default, in every group
	}
	if d := cmp.Diff(plain(t, want), plain(t, got)); d != "" {
		t.Errorf("HCL and JSON are not the same job (-JSON +HCL):\n%s", d)
	}
	planned(t, c, got)
}

// plain is a job as JSON without what is empty, which HCL does not tell from what is not there.
func plain(t *testing.T, j *api.Job) any {
	t.Helper()
	text, err := json.Marshal(j)
	check(t, err)
	var v any
	check(t, json.Unmarshal(text, &v))
	return pruned(v)
}

func pruned(v any) any {
	switch x := v.(type) {
	case map[string]any:
		for k, e := range x {
			if e = pruned(e); e == nil {
				delete(x, k)
			} else {
				x[k] = e
			}
		}
		if len(x) == 0 {
			return nil
		}
	case []any:
		for i := range x {
			x[i] = pruned(x[i])
		}
		if len(x) == 0 {
			return nil
		}
	case string:
		if x == "" {
			return nil
		}
	case bool:
		if !x {
			return nil
		}
	case float64:
		if x == 0 {
			return nil
		}
	}
	return v
}

// planned registers a job under a name of its own, without the namespace and pool that this Nomad does not have, and with
// nothing to place.
func planned(t *testing.T, c *api.Client, j *api.Job) {
	t.Helper()
	id := "ps" + random(4) + "-text"
	j.ID, j.Name, j.Namespace, j.NodePool = &id, &id, nil, nil
	for _, g := range j.TaskGroups {
		g.Count = ptr(0)
		if g.Scaling != nil {
			g.Scaling.Min = ptr(int64(0))
		}
	}
	first, _, err := c.Jobs().Plan(j, true, nil)
	check(t, err)
	if first.Diff.Type != "Added" || len(first.FailedTGAllocs) > 0 {
		t.Errorf("plan of a new job: %s, %v", first.Diff.Type, first.FailedTGAllocs)
	}
	if first.Warnings != "" {
		t.Errorf("the server warns: %s", first.Warnings)
	}
	made, _, err := c.Jobs().EnforceRegister(j, first.JobModifyIndex, nil)
	check(t, err)
	// The server has put indices into a new scaling policy, and calls what has none another job once more (see the first story).
	_, _, err = c.Jobs().EnforceRegister(j, made.JobModifyIndex, nil)
	check(t, err)
	defer func() {
		_, _, err := c.Jobs().Deregister(id, true, nil)
		check(t, err)
	}()
	again, _, err := c.Jobs().Plan(j, true, nil)
	check(t, err)
	if again.Diff.Type != "None" {
		text, _ := json.MarshalIndent(again.Diff, "", " ")
		t.Errorf("plan of what is registered: %s", text)
	}
}
