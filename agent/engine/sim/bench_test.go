package sim

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/scheduler/scale"
)

// The load comes from another process, so that the engine's use of the processor can be told from its clients'.
var loadSocket = flag.String("sim.load", "", "be the load on this socket (started by BenchmarkStreams)")

const (
	benchStreams = 1000
	benchTime    = 5 * time.Second
)

// BenchmarkStreams drives 1,000 streams of 20 tokens a second and reports how many cores the engine takes for that.
//
//	go test -run none -bench Streams ./agent/engine/sim
func BenchmarkStreams(b *testing.B) {
	dir, err := os.MkdirTemp("", "sim")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	o := DefaultOptions()
	// At almost no use of the cache a step of the model takes 5.74 ms: slowed down to 50 ms.
	o.Model, o.Speedup, o.NumGPUBlocks, o.MaxSeqs, o.UDS = "bench", scale.Simulated.DecodeBase/50, 1<<20, 2*benchStreams, filepath.Join(dir, "s")
	s, err := New(o, nothing)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	<-s.Listening()
	client := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestBeLoad$", "-sim.load", o.UDS)
	client.Stderr = os.Stderr
	if err := client.Start(); err != nil {
		b.Fatal(err)
	}
	for s.engine.occupied.Load() < benchStreams {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(time.Second) // all prefills are done
	for b.Loop() {
		cpu, tokens, start := processorTime(b), s.engine.generated.Load(), time.Now()
		time.Sleep(benchTime)
		seconds := time.Since(start).Seconds()
		b.ReportMetric((processorTime(b)-cpu).Seconds()/seconds, "cores")
		b.ReportMetric(float64(s.engine.generated.Load()-tokens)/seconds, "tokens/s")
	}
	_ = client.Process.Kill()
	_ = client.Wait()
	cancel()
	if err := <-ended; err != nil {
		b.Error(err)
	}
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestBeLoad is no test: it is the other process of BenchmarkStreams.
func TestBeLoad(t *testing.T) {
	if *loadSocket == "" {
		return
	}
	var wait sync.WaitGroup
	for i := range benchStreams {
		wait.Go(func() { readStream(t, i) })
	}
	wait.Wait()
}

func readStream(t *testing.T, i int) {
	conn, err := net.Dial("unix", *loadSocket)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	body := fmt.Sprintf(`{"prompt":"stream %d","max_tokens":30000,"ignore_eos":true,"temperature":0,"stream":true,"return_token_ids":true}`, i)
	fmt.Fprintf(conn, "POST /v1/completions HTTP/1.1\r\nHost: sim\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	for in := bufio.NewReader(conn); ; {
		if _, err := in.ReadSlice('\n'); err != nil {
			return
		}
	}
}

// discard is an answer that nobody reads.
type discard struct {
	header http.Header
	bytes  atomic.Int64
}

func (d *discard) Header() http.Header              { return d.header }
func (d *discard) Write(b []byte) (int, error)      { d.bytes.Add(int64(len(b))); return len(b), nil }
func (d *discard) WriteHeader(int)                  {}
func (d *discard) Flush()                           {}
func (d *discard) SetWriteDeadline(time.Time) error { return nil }

// BenchmarkChunk is what one token of one stream costs from the engine's output to its bytes.
func BenchmarkChunk(b *testing.B) {
	s, err := New(fast(), nothing)
	if err != nil {
		b.Fatal(err)
	}
	g := &generation{id: "cmpl-1", model: "m", fields: &generateFields{}, wake: make(chan struct{}, 1)}
	c := newChoice(0, &sequence{out: newOutput(g.wake, false, 0)}, g.fields)
	g.choices = []*choice{c}
	stream := newCompletionStream(s, g, &completionRequest{}, [][]int32{{1}})
	sse := newSSE(&discard{header: http.Header{}}, time.Minute)
	ids := s.engine.v.encode(nil, strings.Repeat("The penstock holds back the falling water. ", 10))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c.seq.out.push(emitted{token: ids[i%len(ids)]})
		d, _ := c.advance()
		sse.buf = stream.delta(sse.buf, c, d)
		if err := sse.flush(); err != nil {
			b.Fatal(err)
		}
		c.text, c.shown = c.text[:0], 0
	}
}

func BenchmarkFold(b *testing.B) {
	v, c := theVocabulary(), newPrefix(1)
	ids := v.encode(nil, strings.Repeat("Plain English words of a prompt, as people write them. ", 100))
	b.ReportAllocs()
	for b.Loop() {
		for _, t := range ids {
			c = v.fold(c, t)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(ids)), "ns/token")
}

func BenchmarkEncode(b *testing.B) {
	v := theVocabulary()
	text := strings.Repeat("Plain English words of a prompt, as people write them. ", 100)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	var ids []int32
	for b.Loop() {
		ids = v.encode(ids[:0], text)
	}
}

func BenchmarkHashBlocks(b *testing.B) {
	root := rootHash("0")
	tokens := make([]int32, 8192)
	b.ReportAllocs()
	for b.Loop() {
		newSequence("x", tokens, 16, root, "", 0, "", 1)
	}
}
