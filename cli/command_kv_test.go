package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// chatTrace is two conversations in turn, and between their turns prompts that nobody continues.
func chatTrace() string {
	var b strings.Builder
	line := func(at, blocks int, first uint64) {
		ids := make([]uint64, blocks)
		for i := range ids {
			ids[i] = first + uint64(i)
		}
		text, _ := json.Marshal(ids)
		fmt.Fprintf(&b, `{"timestamp": %d, "input_length": %d, "output_length": 9, "hash_ids": %s}`+"\n", at, blocks*512, text)
	}
	for turn := range 10 {
		line(turn*1000, 4+turn, 1000)
		line(turn*1000+100, 4+turn, 2000)
		line(turn*1000+200, 20, uint64(10_000+100*turn))
	}
	return b.String()
}

func TestReplay(t *testing.T) {
	t.Parallel()
	tt := newTerminal(t, nil)
	tt.write(t, "trace.jsonl", chatTrace())
	code, out, talk := tt.run("kv", "replay", "--trace", "trace.jsonl", "--blocks", "30,1000")
	want := "BLOCKS  LRU    ARC    LFU    LRU+SESSION  BOUND\n"
	if code != 0 || !strings.HasPrefix(out, want) || strings.Count(out, "\n") != 3 || !strings.Contains(talk, "30 requests, 370 blocks") {
		t.Errorf("exit %d:\n%s%s", code, out, talk)
	}
	code, out, _ = tt.run("kv", "replay", "--trace", "trace.jsonl", "--blocks", "30", "--json")
	var doc struct {
		Requests int
		Results  []struct {
			Policy        string
			HitRatio      float64 `json:"hit_ratio"`
			ResidentRatio float64 `json:"resident_ratio"`
		}
	}
	if err := json.Unmarshal([]byte(out), &doc); code != 0 || err != nil || doc.Requests != 30 || len(doc.Results) != 5 {
		t.Fatalf("exit %d, %v:\n%s", code, err, out)
	}
	ratio := map[string]float64{}
	for _, r := range doc.Results {
		ratio[r.Policy] = r.HitRatio
		if r.HitRatio != r.ResidentRatio {
			t.Errorf("%s: %.3f of the blocks were resident, %.3f usable", r.Policy, r.ResidentRatio, r.HitRatio)
		}
	}
	if ratio["lru"] >= ratio[hinted] || ratio[hinted] > ratio[bound] {
		t.Errorf("%v", ratio)
	}
}

func TestReplayMistakes(t *testing.T) {
	t.Parallel()
	tt := newTerminal(t, nil)
	tt.write(t, "bad.jsonl", chatTrace()+"{\n")
	tt.write(t, "empty.jsonl", "\n")
	for line, want := range map[string]struct {
		code int
		talk string
	}{
		"kv replay":                                     {ExitUsage, "--trace"},
		"kv replay --trace x":                           {ExitNotFound, "does not exist"},
		"kv replay --trace bad.jsonl":                   {ExitError, "bad.jsonl:31: "},
		"kv replay --trace empty.jsonl":                 {ExitError, "no requests"},
		"kv replay --trace bad.jsonl --blocks 1,x":      {ExitUsage, `"x"`},
		"kv replay --trace bad.jsonl --block-tokens -1": {ExitUsage, "--block-tokens"},
		"kv replay --trace bad.jsonl --stay -1s":        {ExitUsage, "--stay"},
		"kv replay --trace bad.jsonl extra":             {ExitUsage, "extra"},
	} {
		if code, out, talk := tt.run(strings.Fields(line)...); code != want.code || out != "" || !strings.Contains(talk, want.talk) {
			t.Errorf("%s: exit %d: %s%s", line, code, out, talk)
		}
	}
}

// TestBar: on a terminal it moves, tells rate and what is left, and goes away; elsewhere there is nothing.
func TestBar(t *testing.T) {
	t.Parallel()
	for _, tty := range []bool{true, false} {
		var talk strings.Builder
		now := noon
		inv := &invocation{IO: IO{Err: &talk, ErrTTY: tty, Now: func() time.Time { return now }}, set: resolved{[]value{{Key: "json"}}}}
		b := inv.newBar("work", 200, "things")
		for n := range int64(200) {
			now = now.Add(50 * time.Millisecond)
			b.at(n)
		}
		b.end()
		want := "work [###############...............]  50% 20 things/s, 5s left"
		if got := talk.String(); tty != strings.Contains(got, want) || tty != strings.HasSuffix(got, "\r\x1b[K") || !tty && got != "" {
			t.Errorf("tty %t: %q", tty, got)
		}
	}
}
