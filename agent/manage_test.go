package agent

import (
	"bufio"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/identity"
)

var asController = identity.ID{Role: identity.Controller, Name: "controller"}

// manage asks an agent about its KV tiers and returns all parts of the answer.
func manage(t *testing.T, a *agentUnderTest, id identity.ID, body string) (status int, parts []*apiv1.KVResponse) {
	t.Helper()
	p := portUnderTest{url: "https://" + a.w.controller.state(a.rank).GetIdentity().GetAddress()}
	resp, err := p.post(t, clientOf(t, a.w.ca, id), pathKV, body, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); resp.StatusCode == 200 && lines.Scan(); {
		var part apiv1.KVResponse
		if err := protojson.Unmarshal(lines.Bytes(), &part); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		parts = append(parts, &part)
	}
	return resp.StatusCode, parts
}

// moved is the end of what flush or warm has told.
func moved(t *testing.T, parts []*apiv1.KVResponse) *apiv1.KVMoved {
	t.Helper()
	if len(parts) == 0 || parts[len(parts)-1].Moved == nil || !parts[len(parts)-1].Moved.Done {
		t.Fatalf("no end: %v", parts)
	}
	return parts[len(parts)-1].Moved
}

// TestManage: the controller, and nobody else, learns what a run's KV tiers hold, and has blocks moved: down, and in the next run
// up again.
func TestManage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tiers := fmt.Sprintf("{host: 64MiB, disk: {path: %s, size: 256MiB}}", filepath.Join(dir, "disk"))
	a := doorReplica(t, tiers)
	complete(t, a, "ann")
	stored(t, a, "disk", 4)
	for _, id := range []identity.ID{asGateway, asAgent} {
		if status, _ := manage(t, a, id, `{"verb":"stat"}`); status != 403 {
			t.Errorf("%v asks: HTTP %d", id, status)
		}
	}
	for _, body := range []string{`{"verb":"purge"}`, `{}`, `{`} {
		if status, _ := manage(t, a, asController, body); status != 400 {
			t.Errorf("%s: HTTP %d", body, status)
		}
	}
	_, parts := manage(t, a, asController, `{"verb":"stat", "ofALaterRelease": 1}`)
	if len(parts) != 1 || len(parts[0].Tiers) != 2 || parts[0].Tiers[0].Tier != "host" || parts[0].Tiers[1].GetBlocks() == 0 {
		t.Fatalf("stat: %v", parts)
	}
	blocks := parts[0].Tiers[0].GetBlocks()
	if m := moved(t, lastOf(manage(t, a, asController, `{"verb":"flush"}`))); m.Failed != 0 || m.Left {
		t.Errorf("flush: %v", m)
	}
	if _, parts = manage(t, a, asController, `{"verb":"list"}`); blocksOf(parts, "host") != blocks || blocksOf(parts, "disk") != blocks {
		t.Errorf("%d blocks in host memory and %d on disk, not %d", blocksOf(parts, "host"), blocksOf(parts, "disk"), blocks)
	}
	if _, parts = manage(t, a, asController, `{"verb":"list", "limit":"2"}`); blocksOf(parts, "host") != 2 || blocksOf(parts, "disk") != 2 {
		t.Errorf("list of two: %v", parts)
	}
	a.Drain("the job ends", 0)
	if err := a.wait(); err != nil {
		t.Fatal(err)
	}
	next := doorReplica(t, tiers)
	m := moved(t, lastOf(manage(t, next, asController, `{"verb":"warm","within":"60s"}`)))
	if m.Blocks < blocks || m.Total < blocks || m.Failed != 0 || m.Left {
		t.Errorf("warm: %v, of %d blocks", m, blocks)
	}
	if m = moved(t, lastOf(manage(t, next, asController, `{"verb":"warm"}`))); m.Blocks != 0 || m.There < blocks {
		t.Errorf("warm again: %v", m)
	}
}

func lastOf(_ int, parts []*apiv1.KVResponse) []*apiv1.KVResponse { return parts }

func blocksOf(parts []*apiv1.KVResponse, tier string) (n uint64) {
	for _, p := range parts {
		for _, b := range p.Blocks {
			if b.Tier == tier && len(b.Space) == 16 && len(b.Name) == 32 && b.Size > 0 {
				n++
			}
		}
	}
	return n
}

// TestNoTiersToManage: a run without KV tiers says so.
func TestNoTiersToManage(t *testing.T) {
	t.Parallel()
	p := openPort(t, nil)
	resp, err := p.post(t, clientOf(t, p.ca, asController), pathKV, `{"verb":"stat"}`, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var text strings.Builder
	if _, err := bufio.NewReader(resp.Body).WriteTo(&text); err != nil || resp.StatusCode != 404 || !strings.Contains(text.String(), "no KV tiers") {
		t.Errorf("HTTP %d, %v: %s", resp.StatusCode, err, &text)
	}
}
