package sim

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// rankOf are the options of one of n ranks.
func rankOf(rank, n, port int, change ...func(*Options)) Options {
	return fast(append([]func(*Options){func(o *Options) {
		o.Nodes, o.NodeRank, o.MasterPort, o.Headless, o.GroupSecret = n, rank, port, rank > 0, "run"
	}}, change...)...)
}

func TestRanksServeTogetherAndEndTogether(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	second := launch(t, rankOf(2, 3, port)) // in any order
	first := launch(t, rankOf(1, 3, port))
	lead := launch(t, rankOf(0, 3, port))
	lead.awaitReady()
	lead.generate("/v1/completions", with(greedy, fields{"prompt": "Hi"}))
	lead.cancel()
	for i, r := range []*rig{lead, first, second} {
		if err := r.exit(); err != nil {
			t.Errorf("rank %d: %v", i, err)
		}
	}
}

func TestRankZeroWaits(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	lead := launch(t, rankOf(0, 2, port))
	<-lead.Listening()
	if status, text := lead.get("/health"); status != 503 {
		t.Errorf("health before all ranks are there: %d %s", status, text)
	}
	follower := launch(t, rankOf(1, 2, port))
	lead.awaitReady()
	if status, _ := lead.get("/health"); status != 200 {
		t.Errorf("health with all ranks: %d", status)
	}
	lead.cancel()
	_, _ = lead.exit(), follower.exit()
}

func TestLostRankEndsAll(t *testing.T) {
	t.Parallel()
	for lost := range 3 {
		port := freePort(t)
		ranks := make([]*rig, 3)
		for i := range ranks {
			ranks[i] = launch(t, rankOf(i, 3, port))
		}
		ranks[0].awaitReady()
		die, _ := ParseFailure("exit:9")
		if lost == 0 {
			ranks[0].faults.set([]Failure{die}, nil, 0)
			ranks[0].engine.post(func() {})
		} else {
			ranks[lost].cancel() // its connection closes, as when its process is killed
		}
		for i, r := range ranks {
			err := r.exit()
			switch {
			case i == lost && lost > 0:
			case i == lost && exitCode(err) == 9:
			case i == lost || exitCode(err) != 1 || !strings.Contains(err.Error(), fmt.Sprintf("rank %d of 3 is lost", lost)):
				t.Errorf("rank %d was lost, rank %d ended with %v", lost, i, err)
			}
		}
	}
}

func TestStrangersCannotJoin(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	lead := launch(t, rankOf(0, 2, port))
	<-lead.Listening()
	for name, change := range map[string]func(*Options){
		"no secret":    func(o *Options) { o.GroupSecret = "guess" },
		"wrong number": func(o *Options) { o.Nodes = 3 },
	} {
		stranger := launch(t, rankOf(1, 2, port, change))
		if err := stranger.exit(); exitCode(err) != 1 || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v", name, err)
		}
	}
	nonsense, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = nonsense.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	_ = nonsense.Close()
	member := launch(t, rankOf(1, 2, port))
	lead.awaitReady()
	double := launch(t, rankOf(1, 2, port))
	if err := double.exit(); exitCode(err) != 1 || !strings.Contains(err.Error(), "here already") {
		t.Errorf("the same rank again: %v", err)
	}
	if status, _ := lead.get("/health"); status != 200 {
		t.Errorf("health after strangers: %d", status)
	}
	lead.cancel()
	_, _ = lead.exit(), member.exit()
}

func TestDifferentWeightsAreRefused(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	file := filepath.Join(t.TempDir(), "model")
	if err := os.WriteFile(file, []byte("weights"), 0o600); err != nil {
		t.Fatal(err)
	}
	lead, follower := launch(t, rankOf(0, 2, port)), launch(t, rankOf(1, 2, port, func(o *Options) { o.Model = file }))
	for i, r := range []*rig{lead, follower} {
		if err := r.exit(); exitCode(err) != 1 || !strings.Contains(err.Error(), "ranks 0 and 1 of 2 loaded different weights") {
			t.Errorf("rank %d: %v", i, err)
		}
	}
}

func TestSilentRankIsLost(t *testing.T) {
	t.Parallel()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, err := newRankConn(a).receive(time.Millisecond); err == nil || !strings.Contains(err.Error(), "nothing was heard") {
		t.Errorf("silence: %v", err)
	}
}
