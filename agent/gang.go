package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"sync"
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/identity"
)

// The ranks of a run meet at rank 0's data port: each of the others posts a word about itself once a second and gets rank
// 0's in return. Rank 0 starts its engine when all are there, and then names the port at which the engines meet. A word
// that does not come, or that tells of a failure, ends the replica on all ranks.

// word is what one rank tells another.
type word struct {
	Rank    int         `json:"rank"`
	Node    string      `json:"node"`
	Phase   apiv1.Phase `json:"phase"`
	Message string      `json:"message,omitempty"`
	Lines   []string    `json:"lines,omitempty"`  // of the engine's output, where it failed
	Port    int         `json:"port,omitempty"`   // rank 0: where the engines meet; 0 = not yet
	Secret  string      `json:"secret,omitempty"` // rank 0: by which the engines that meet there know each other
	// Left is how long a rank that drains may still take.
	Left time.Duration `json:"left,omitempty"`
}

const maxWord = 256 << 10

func decodeWord(r io.Reader) (w word, err error) {
	if err := json.NewDecoder(io.LimitReader(r, maxWord)).Decode(&w); err != nil {
		return word{}, err
	}
	if w.Port < 0 || w.Port > math.MaxUint16 || w.Rank < 0 {
		return word{}, fmt.Errorf("port %d of rank %d", w.Port, w.Rank)
	}
	return w, nil
}

// errLostRank ends a replica because of another rank.
var errLostRank = errors.New("another rank of the replica is lost")

// failure is the error that another rank's word stands for, or nil.
func (w word) failure() error {
	if w.Phase != apiv1.Phase_PHASE_FAILED {
		return nil
	}
	return &rankError{word: w}
}

// rankError is a failure of another rank, with its engine's last lines.
type rankError struct{ word }

func (e *rankError) Error() string {
	return fmt.Sprintf("rank %d on %s failed: %s", e.Rank, e.Node, e.Message)
}

func (e *rankError) Unwrap() error { return errLostRank }

// leader is rank 0's side. It is the handler of pathGang and safe for concurrent use.
type leader struct {
	nodes int

	mu      sync.Mutex
	own     word
	version int // of own
	members map[int]member
}

type member struct {
	word
	at    time.Time
	knows int // version of own that it was told
}

func newLeader(nodes int) *leader { return &leader{nodes: nodes, members: map[int]member{}} }

// ServeHTTP takes a rank's word. The port has checked that the caller is of this run.
func (l *leader) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	caller, err := identity.FromState(r.TLS)
	if err != nil {
		deny(w, http.StatusForbidden, err)
		return
	}
	said, err := decodeWord(r.Body)
	if err != nil || said.Rank != caller.Rank || said.Rank < 1 || said.Rank >= l.nodes {
		deny(w, http.StatusBadRequest, fmt.Errorf("no word of rank %d: %w", caller.Rank, err))
		return
	}
	l.mu.Lock()
	l.members[said.Rank] = member{word: said, at: time.Now(), knows: l.version}
	own := l.own
	l.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(own)
}

// say sets what the others are told from now on.
func (l *leader) say(w word) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.own = w
	l.version++
}

// missing are the ranks that never came.
func (l *leader) missing() (ranks []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rank := 1; rank < l.nodes; rank++ {
		if _, ok := l.members[rank]; !ok {
			ranks = append(ranks, rank)
		}
	}
	return ranks
}

// trouble is the first failure among the other ranks: one that says so, or one that has been silent for the limit.
func (l *leader) trouble(now time.Time, limit time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rank := 1; rank < l.nodes; rank++ {
		m, ok := l.members[rank]
		if !ok {
			continue
		}
		if err := m.failure(); err != nil {
			return err
		}
		if silent := now.Sub(m.at); silent > limit {
			return fmt.Errorf("%w: rank %d on %s has been silent for %s", errLostRank, rank, m.Node, silent.Round(time.Second))
		}
	}
	return nil
}

// leaving is the word of a rank that was told to end, if there is one.
func (l *leader) leaving() (word, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.members {
		if m.Phase == apiv1.Phase_PHASE_DRAINING || m.Phase == apiv1.Phase_PHASE_STOPPED {
			return m.word, true
		}
	}
	return word{}, false
}

// farewell waits until all ranks that are still there know the last word, or ctx ends.
func (l *leader) farewell(ctx context.Context) {
	for !l.allKnow() && sleep(ctx, 20*time.Millisecond) {
	}
}

func (l *leader) allKnow() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.members {
		gone := m.Phase == apiv1.Phase_PHASE_FAILED || m.Phase == apiv1.Phase_PHASE_STOPPED
		if m.knows < l.version && !gone {
			return false
		}
	}
	return true
}

// follower is another rank's side. Safe for concurrent use.
type follower struct {
	client   *http.Client
	interval time.Duration

	mu    sync.Mutex
	head  string // host:port of rank 0's data port; empty = not known yet
	own   word
	heard word
	at    time.Time // when heard came; zero = never
}

func newFollower(c *http.Client, head string, interval time.Duration) *follower {
	return &follower{client: c, head: head, interval: interval}
}

// onlyHead accepts rank 0 of the run as the server.
func onlyHead(launch, run string) func(identity.ID) error {
	return func(id identity.ID) error {
		if err := identity.WantRun(launch, run)(id); err != nil {
			return err
		}
		if id.Rank != 0 {
			return fmt.Errorf("%w: rank %d, wanted rank 0", identity.ErrWrongPeer, id.Rank)
		}
		return nil
	}
}

// meet says where rank 0 is.
func (f *follower) meet(head string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if head != "" {
		f.head = head
	}
}

// where is the address of rank 0; empty = not known yet.
func (f *follower) where() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.head
}

func (f *follower) say(w word) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.own = w
}

// run exchanges words until ctx ends.
func (f *follower) run(ctx context.Context) {
	defer f.client.CloseIdleConnections()
	for sleep(ctx, f.interval) {
		_ = f.exchange(ctx) // silence shows in leader's time
	}
}

// exchange posts our word and takes rank 0's.
func (f *follower) exchange(ctx context.Context) error {
	f.mu.Lock()
	head, own := f.head, f.own
	f.mu.Unlock()
	if head == "" {
		return errors.New("rank 0 is not known yet")
	}
	body, err := json.Marshal(own)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+head+pathGang, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("rank 0 answers %s", resp.Status)
	}
	heard, err := decodeWord(resp.Body)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.heard, f.at = heard, time.Now()
	return nil
}

// last is rank 0's last word; ok is false when it never spoke.
func (f *follower) last() (word, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.heard, !f.at.IsZero()
}

// trouble is rank 0's failure, by its word or by its silence.
func (f *follower) trouble(now time.Time, limit time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at.IsZero() {
		return nil
	}
	if err := f.heard.failure(); err != nil {
		return err
	}
	if silent := now.Sub(f.at); silent > limit {
		return fmt.Errorf("%w: rank 0 on %s has been silent for %s", errLostRank, f.heard.Node, silent.Round(time.Second))
	}
	return nil
}
