package evict

import (
	"math/rand/v2"
	"testing"
)

// request is a prompt of n blocks of the conversation c, all full.
func request(at int64, c uint64, n int) Request {
	r := Request{At: at, Full: n}
	for i := range uint64(n) {
		r.Blocks = append(r.Blocks, c*1000+i)
	}
	return r
}

func TestReplayByHand(t *testing.T) {
	trace := []Request{
		request(0, 1, 4),
		request(10, 2, 4), // 8 blocks are resident
		request(20, 1, 6), // 4 hits; room for 8: the two last of 2 go
		request(30, 2, 4), // 2 hits; the two last of 1 go, 4 of it stay
		request(40, 1, 6), // 4 hits
	}
	r := NewReplay(LRU, 8, 0)
	for _, q := range trace {
		r.Serve(q)
	}
	if r.Asked != 24 || r.Usable != 10 || r.Resident != 10 || r.Ratio(r.Usable) != 10.0/24 {
		t.Errorf("%+v", r.Result)
	}
}

// chat is a trace of conversations, each turn two blocks longer; half of them end after one turn.
func chat(seed uint64) (trace []Request) {
	rng := rand.New(rand.NewPCG(seed, 1))
	turns := map[uint64]int{}
	for i := range 1500 {
		c := uint64(rng.IntN(20))
		if rng.IntN(2) == 0 {
			c = uint64(1000 + i)
		}
		turns[c]++
		trace = append(trace, request(int64(i)*1000, c, 4+2*(turns[c]%10)))
	}
	return trace
}

func TestReplayOrders(t *testing.T) {
	trace := chat(1)
	if n := Conversations(trace); n < 100 || n == len(trace) {
		t.Errorf("%d of %d requests are continued", n, len(trace))
	}
	const blocks = 150
	serve := func(r *Replay) Result {
		for _, q := range trace {
			r.Serve(q)
			if n := r.order.Len(); n > blocks {
				t.Fatalf("%d blocks are held in room for %d", n, blocks)
			}
		}
		if r.Usable != r.Resident {
			t.Errorf("%d blocks were resident, %d usable", r.Resident, r.Usable)
		}
		return r.Result
	}
	lru, hinted, bound := serve(NewReplay(LRU, blocks, 0)), serve(NewReplay(LRU, blocks, 60_000)), serve(NewClairvoyant(trace, blocks))
	arc, lfu := serve(NewReplay(ARC, blocks, 0)), serve(NewReplay(AgedLFU, blocks, 0))
	if hinted.Usable <= lru.Usable || bound.Usable < max(hinted.Usable, arc.Usable, lfu.Usable) {
		t.Errorf("lru %d, with hints %d, arc %d, lfu %d, bound %d", lru.Usable, hinted.Usable, arc.Usable, lfu.Usable, bound.Usable)
	}
	endless := NewReplay(LRU, 1<<20, 0)
	for _, q := range trace {
		endless.Serve(q)
	}
	if endless.Usable < bound.Usable {
		t.Errorf("without a limit %d, the bound is %d", endless.Usable, bound.Usable)
	}
}

// TestRequestLongerThanCache: its head stays, for what is without its head is of no use.
func TestRequestLongerThanCache(t *testing.T) {
	r := NewReplay(LRU, 5, 0)
	r.Serve(request(0, 1, 9))
	r.Serve(request(1, 1, 9))
	if r.Usable != r.Resident || r.Usable != 5 {
		t.Errorf("%+v", r.Result)
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"timestamp": 27000, "input_length": 1025, "output_length": 50, "hash_ids": [0, 1, 7]}`))
	f.Add([]byte(`{"timestamp": 1e30, "hash_ids": [-1]}`))
	f.Add([]byte(`{"hash_ids": []}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := ParseRequest(line, 512)
		if err == nil && (r.Full > len(r.Blocks) || r.Full < 0 || r.At < 0) {
			t.Errorf("%q became %+v", line, r)
		}
	})
}

func TestParseRequest(t *testing.T) {
	r, err := ParseRequest([]byte(`{"timestamp": 27000, "input_length": 1025, "hash_ids": [0, 1, 7]}`), 512)
	if err != nil || r.At != 27000 || len(r.Blocks) != 3 || r.Blocks[2] != 7 || r.Full != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	for _, bad := range []string{"", "[]", `{"timestamp":1}`, `{"hash_ids":[1]}`, `{"timestamp":-1,"hash_ids":[1]}`, `{"timestamp":1,"hash_ids":["x"]}`} {
		if _, err := ParseRequest([]byte(bad), 512); err == nil {
			t.Errorf("%q was taken for a request", bad)
		}
	}
}
