package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	stdlog "log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/engine"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/upstream"
)

// The benchmarks run the engine and the clients in processes of their own and count the CPU time of this one, so that the
// figure is the gateway's alone and a busy machine does not spoil it. httputil.ReverseProxy is measured the same way.

const (
	roleVariable = "PENSTOCK_GATEWAY_BENCH_ROLE"
	benchTokens  = 32
	benchSeconds = 8
)

// benchRole runs this process as an engine or as clients, if it was started as such.
func benchRole() {
	switch os.Getenv(roleVariable) {
	case "engine":
		s := httptest.NewTLSServer(http.HandlerFunc(benchEngine))
		fmt.Println(s.Listener.Addr())
		_, _ = io.Copy(io.Discard, os.Stdin) // until the benchmark ends
		os.Exit(0)
	case "clients":
		for line := bufio.NewScanner(os.Stdin); line.Scan(); {
			f := strings.Fields(line.Text())
			at, _ := strconv.Atoi(f[2])
			n, _ := strconv.Atoi(f[3])
			if f[1] == "paced" {
				fmt.Println(benchPaced(f[0], at, n))
				continue
			}
			fmt.Println(benchClients(f[0], f[1] == "stream", at, n))
		}
		os.Exit(0)
	}
}

func benchEngine(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	flush := w.(http.Flusher)
	if bytes.Contains(body, []byte(`"paced"`)) {
		benchPace(w, r, body)
		return
	}
	if !bytes.Contains(body, []byte(`"stream":true`)) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":%q},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":32,"total_tokens":41}}`, strings.Repeat("a water pipe ", 40))
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	ids, first := "", ""
	if bytes.Contains(body, []byte(`"return_token_ids":true`)) {
		ids, first = `,"token_ids":[15339]`, `,"prompt_token_ids":[1,2,3,4,5,6,7,8,9]`
	}
	head := `data: {"id":"chatcmpl-8f14e45fceea167a5a36dedd4bea2543","object":"chat.completion.chunk","created":1760000000,"model":"m","choices":[{"index":0,`
	fmt.Fprintf(w, `%s"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]%s}`+"\n\n", head, first)
	for range benchTokens {
		_, _ = io.WriteString(w, head+`"delta":{"content":" water"},"logprobs":null,"finish_reason":null`+ids+"}]}\n\n")
		flush.Flush()
	}
	_, _ = io.WriteString(w, head+`"delta":{"content":""},"logprobs":null,"finish_reason":"stop"}]}`+"\n\ndata: [DONE]\n\n")
}

// benchClients makes n requests, at of them at a time, and says how it went.
func benchClients(target string, stream bool, at, n int) string {
	body := fmt.Sprintf(`{"model":"m","messages":[{"role":"user","content":%q}],"temperature":0,"max_tokens":64,"stream":%v}`, strings.Repeat("tell me ", 30), stream)
	want := []byte(" water")
	count := benchTokens
	if !stream {
		want, count = []byte("a water pipe "), 40
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: at, MaxConnsPerHost: at}}
	var wg sync.WaitGroup
	work := make(chan struct{})
	failed := make(chan string, n)
	for range at {
		wg.Go(func() {
			for range work {
				req, _ := http.NewRequest(http.MethodPost, target+pathChat, strings.NewReader(body))
				req.Header.Set("Authorization", "Bearer "+secret("benchkey"))
				resp, err := client.Do(req)
				if err != nil {
					failed <- err.Error()
					continue
				}
				b, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if bytes.Count(b, want) != count || err != nil {
					failed <- fmt.Sprintf("%d %v %.300s", resp.StatusCode, err, b)
				}
			}
		})
	}
	for range n {
		work <- struct{}{}
	}
	close(work)
	wg.Wait()
	if len(failed) == 0 {
		return "ok"
	}
	return fmt.Sprintf("%d of %d failed: %s", len(failed), n, strings.ReplaceAll(<-failed, "\n", " "))
}

// benchPace sends 20 tokens a second; each says when it was sent.
func benchPace(w http.ResponseWriter, r *http.Request, body []byte) {
	w.Header().Set("Content-Type", "text/event-stream")
	ids := ""
	if bytes.Contains(body, []byte(`"return_token_ids":true`)) {
		ids = `,"token_ids":[15339]`
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
		fmt.Fprintf(w, `data: {"id":"chatcmpl-8f14e45fceea167a5a36dedd4bea2543","object":"chat.completion.chunk","created":1760000000,"model":"m",`+
			`"choices":[{"index":0,"delta":{"content":"at %d;"},"logprobs":null,"finish_reason":null%s}]}`+"\n\n", time.Now().UnixNano(), ids)
		w.(http.Flusher).Flush()
	}
}

// benchPaced reads n streams at a time for some seconds and returns the median and the 99th percentile of how long tokens
// were on their way, in microseconds.
func benchPaced(target string, n, forSeconds int) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(forSeconds)*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: n, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	all := make([][]float64, n)
	warm := time.Now().Add(time.Duration(forSeconds) * time.Second / 2) // handshakes are another matter
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			time.Sleep(time.Duration(i) * 50 * time.Millisecond / time.Duration(n)) // spread over a step
			body := `{"model":"m","messages":[],"temperature":0,"stream":true,"user":"paced"}`
			req, _ := http.NewRequestWithContext(ctx, http.MethodPost, target+pathChat, strings.NewReader(body))
			req.Header.Set("Authorization", "Bearer "+secret("benchkey"))
			resp, err := client.Do(req)
			if err != nil {
				return
			}
			defer resp.Body.Close()
			for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
				if _, after, ok := strings.Cut(lines.Text(), `"at `); ok {
					at, _ := strconv.ParseInt(after[:strings.IndexByte(after, ';')], 10, 64)
					if now := time.Now(); now.After(warm) {
						all[i] = append(all[i], float64(now.UnixNano()-at)/1000)
					}
				}
			}
		})
	}
	wg.Wait()
	took := slices.Concat(all...)
	if len(took) < n {
		return "failed: tokens are missing"
	}
	slices.Sort(took)
	return fmt.Sprintf("%.0f %.0f", took[len(took)/2], took[len(took)*99/100])
}

// BenchmarkAddedLatency reports what the way through the gateway adds to each token, at 20 tokens a second a stream.
func BenchmarkAddedLatency(b *testing.B) {
	_, engineOut := role(b, "engine")
	if !engineOut.Scan() {
		b.Fatal("no engine")
	}
	address := engineOut.Text()
	clients, said := role(b, "clients")
	for _, n := range []int{1, 64, 1000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			s := httptest.NewServer(benchGateway(b, address))
			defer s.Close()
			run := func(target string) (p50, p99 float64) {
				fmt.Fprintln(clients, target, "paced", n, benchSeconds)
				if !said.Scan() {
					b.Fatal("no clients")
				}
				if _, err := fmt.Sscan(said.Text(), &p50, &p99); err != nil {
					b.Fatal(said.Text())
				}
				return p50, p99
			}
			for b.Loop() {
				direct50, direct99 := run("https://" + address)
				before := cpuTime()
				through50, through99 := run(s.URL)
				b.ReportMetric((cpuTime()-before).Seconds()*1e6/float64(n*20*benchSeconds), "cpu-µs/token")
				b.ReportMetric(through50-direct50, "p50-added-µs")
				b.ReportMetric(through99-direct99, "p99-added-µs")
				b.ReportMetric(direct99, "p99-direct-µs")
			}
		})
	}
}

// role starts this test binary in another role.
func role(b *testing.B, name string) (io.Writer, *bufio.Scanner) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+name)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	return in, bufio.NewScanner(out)
}

// benchGateway is a gateway with everything on: a key with limits, token ids, usage, records, metrics.
func benchGateway(b *testing.B, engineAddress string) http.Handler {
	up := upstream.New(upstream.Options{TLS: func(string, string) *tls.Config { return &tls.Config{InsecureSkipVerify: true} }})
	b.Cleanup(up.Close)
	g, err := New(Options{
		Upstream: up, CacheSaltKey: []byte("0123456789abcdef"), RequireKey: true, Log: zerolog.Nop(), Registerer: prometheus.NewRegistry(),
		Traits: func(jobspecs.EngineKind) (engine.Traits, bool) { return vllmTraits, true },
	})
	if err != nil {
		b.Fatal(err)
	}
	err = g.Apply(&apiv1.WatchResponse{
		Full: true, Models: []*apiv1.Model{{Name: "m", Deployment: "d", State: "ready"}},
		Keys:     []*apiv1.Key{key("benchkey", func(k *apiv1.Key) { k.RequestsPerMinute, k.TokensPerMinute, k.Concurrency = 1<<30, 1<<40, 1<<20 })},
		Replicas: []*apiv1.Replica{replica("l", 1, func(r *apiv1.Replica) { r.Address = engineAddress })},
	})
	if err != nil {
		b.Fatal(err)
	}
	g.feed.members["l"].routable.Store(true)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Run(ctx)
	}()
	b.Cleanup(func() {
		cancel()
		<-done
	})
	return g.Handler()
}

func benchProxy(_ *testing.B, engineAddress string) http.Handler {
	target := &url.URL{Scheme: "https", Host: engineAddress}
	return &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		FlushInterval: -1,
		ErrorLog:      stdlog.New(io.Discard, "", 0),
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, MaxIdleConnsPerHost: 1024, DisableCompression: true},
	}
}

func cpuTime() time.Duration {
	var ru syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// BenchmarkRequest reports the CPU time that one request costs in the process between client and engine.
func BenchmarkRequest(b *testing.B) {
	_, engineOut := role(b, "engine")
	if !engineOut.Scan() {
		b.Fatal("no engine")
	}
	address := engineOut.Text()
	clients, said := role(b, "clients")
	for _, kind := range []string{"stream", "whole"} {
		for name, front := range map[string]func(*testing.B, string) http.Handler{"gateway": benchGateway, "reverseproxy": benchProxy} {
			b.Run(kind+"/"+name, func(b *testing.B) {
				s := httptest.NewServer(front(b, address))
				defer s.Close()
				run := func(n int) {
					fmt.Fprintln(clients, s.URL, kind, 32, n)
					// Now and then ReverseProxy cuts a stream that began before it had seen the end of the request's body.
					if !said.Scan() || said.Text() != "ok" && name == "gateway" {
						b.Fatal("clients: ", said.Text())
					}
				}
				run(64) // connections are there
				b.ReportAllocs()
				b.ResetTimer()
				before := cpuTime()
				run(b.N)
				used := (cpuTime() - before).Seconds()
				b.ReportMetric(used*1e6/float64(b.N), "cpu-µs/req")
				b.ReportMetric(float64(b.N)/used, "req/s/core")
			})
		}
	}
}
