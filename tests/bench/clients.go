package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// load is what the clients' process is told to do.
type load struct {
	Network   string   `json:"network"`
	Addresses []string `json:"addresses"` // streams are spread over them
	Key       string   `json:"key"`
	Clients   int      `json:"clients"` // at a time, each on one connection; each begins a request when the last has ended
	Stream    bool     `json:"stream"`
	Tokens    int      `json:"tokens"` // of each answer
	Pace      pace     `json:"pace"`
	Ramp      float64  `json:"ramp"` // seconds in which the clients begin, and after which is measured
	For       float64  `json:"for"`  // seconds
}

// outcome is what came of a load, in the time that counts. Times are in milliseconds.
type outcome struct {
	Token, Gap, Way, TTFT quantiles
	Tokens, Requests      int
	All                   int // requests, in the ramp too
	Arrived               int // tokens of streams with a pace, of whole answers or not
	Seconds               float64
	Error                 string
}

// quantiles of one kind of time.
type quantiles struct{ P50, P99 float64 }

// Of returns the one that q names.
func (q quantiles) of(p99 bool) float64 {
	if p99 {
		return q.P99
	}
	return q.P50
}

// playClients makes the loads that it is told, one after the other.
func playClients([]string) error {
	runtime.GOMAXPROCS(1) // cheaper: nobody is woken for nothing
	in := json.NewDecoder(bufio.NewReader(os.Stdin))
	for {
		var l load
		if err := in.Decode(&l); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := json.NewEncoder(os.Stdout).Encode(l.run()); err != nil {
			return err
		}
	}
}

// crowd is a load that runs.
type crowd struct {
	load
	from, end time.Time // of what counts
	failure   atomic.Pointer[error]
}

// client is one of them and what it has seen.
type client struct {
	crowd    *crowd
	number   int
	requests int
	all      int
	tokens   int
	token    []float64 // ms on the way, of each token
	gap      []float64 // ms between tokens
	way      []float64 // ms that a request and its first token were on the way
	ttft     []float64 // ms to the first token
	sent     time.Time
	last     time.Time
}

func (l load) run() outcome {
	now := time.Now()
	c := &crowd{load: l, from: now.Add(seconds(l.Ramp))}
	c.end = c.from.Add(seconds(l.For))
	clients := make([]*client, l.Clients)
	var wg sync.WaitGroup
	for i := range clients {
		clients[i] = &client{crowd: c, number: i}
		wg.Go(func() {
			if err := clients[i].run(); err != nil {
				c.failure.CompareAndSwap(nil, &err)
			}
		})
	}
	wg.Wait()
	return c.sum(clients)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func (c *crowd) sum(clients []*client) outcome {
	out := outcome{Seconds: c.For}
	if err := c.failure.Load(); err != nil {
		out.Error = (*err).Error()
	}
	var token, gap, way, ttft []float64
	for _, x := range clients {
		token, gap, way, ttft = append(token, x.token...), append(gap, x.gap...), append(way, x.way...), append(ttft, x.ttft...)
		out.Requests += x.requests
		out.All += x.all
		out.Arrived += len(x.token)
		out.Tokens += x.tokens
	}
	out.Token, out.Gap, out.Way, out.TTFT = quantilesOf(token), quantilesOf(gap), quantilesOf(way), quantilesOf(ttft)
	return out
}

func quantilesOf(v []float64) quantiles {
	if len(v) == 0 {
		return quantiles{}
	}
	slices.Sort(v)
	return quantiles{quantile(v, 0.5), quantile(v, 0.99)}
}

// run makes one request after the other until the time is over. The last one ends after it, so that connections are kept.
func (x *client) run() error {
	c := x.crowd
	time.Sleep(seconds(0.8 * c.Ramp * float64(x.number) / float64(c.Clients)))
	conn, err := net.Dial(c.Network, c.Addresses[x.number%len(c.Addresses)])
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(c.end.Add(30 * time.Second)); err != nil {
		return err
	}
	in := newAnswerReader(conn)
	for n := 0; time.Now().Before(c.end); n++ {
		if err := x.ask(conn, in, n); err != nil {
			return fmt.Errorf("client %d, request %d: %w", x.number, n, err)
		}
	}
	return nil
}

// ask makes one request. The first of a client is shorter, so that the clients do not keep in step.
func (x *client) ask(conn net.Conn, in *answerReader, n int) error {
	c := x.crowd
	tokens := c.Tokens
	if n == 0 && c.Pace.Every > 0 {
		tokens = 1 + x.number*c.Tokens/c.Clients
	}
	x.sent, x.last = time.Now(), time.Time{}
	if _, err := conn.Write(c.request(tokens)); err != nil {
		return err
	}
	a, err := in.read(x.event)
	switch {
	case err != nil:
		return err
	case a.status != 200:
		return fmt.Errorf("answer %d: %.300s", a.status, a.text)
	case a.tokens != tokens:
		return fmt.Errorf("%d tokens came, %d were asked for", a.tokens, tokens)
	}
	x.all++
	if now := time.Now(); now.After(c.from) && now.Before(c.end) {
		x.requests++
		x.tokens += tokens
	}
	return nil
}

// prompt is of some 90 tokens.
var prompt = strings.Repeat("tell me of the water and of the valley, ", 9)

func (c *crowd) request(tokens int) []byte {
	p, _ := json.Marshal(c.Pace)
	body := fmt.Sprintf(`{"model":"bench","messages":[{"role":"user","content":%q}],"temperature":0,"max_tokens":%d,"stream":%v,"bench":%s}`,
		prompt, tokens, c.Stream, p)
	return fmt.Appendf(nil, "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		c.Key, len(body), body)
}

// event takes the times of one token. Answers at full speed tell nothing of times.
func (x *client) event(event []byte, at time.Time) {
	if x.crowd.Pace.Every == 0 {
		return
	}
	last := x.last
	x.last = at
	if at.Before(x.crowd.from) || at.After(x.crowd.end) {
		return
	}
	sent := stamp(event, keySent)
	x.token = append(x.token, milli(at.UnixNano()-sent))
	if !last.IsZero() {
		x.gap = append(x.gap, milli(int64(at.Sub(last))))
		return
	}
	total := int64(at.Sub(x.sent))
	x.ttft = append(x.ttft, milli(total))
	x.way = append(x.way, milli(total-(sent-stamp(event, keyRead))))
}

func milli(ns int64) float64 { return float64(ns) / 1e6 }
