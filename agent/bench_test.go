package agent

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/penstock/penstock/scheduler/identity"
)

const pieces = 64

// piece is about what an engine sends for one token.
const piece = `data: {"id":"cmpl-1","object":"text_completion","choices":[{"index":0,"text":" word","token_ids":[17]}]}` + "\n\n"

func streaming(step <-chan struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		for range pieces {
			select { // one piece at a time, as from a decoder
			case <-step:
			case <-r.Context().Done():
				return
			}
			_, _ = io.WriteString(w, piece)
			_ = http.NewResponseController(w).Flush()
		}
	})
}

// BenchmarkStream is one stream of 64 pieces through the data port, against httputil.ReverseProxy behind the same TLS.
func BenchmarkStream(b *testing.B) {
	for _, way := range []string{"port", "ReverseProxy"} {
		b.Run(way, func(b *testing.B) {
			step := make(chan struct{}, 1)
			p := openPort(b, streaming(step))
			if way == "ReverseProxy" {
				p.url = reverseProxy(b, p)
			}
			c := clientOf(b, p.ca, asGateway)
			buf := make([]byte, 4096)
			b.ReportAllocs()
			for b.Loop() {
				step <- struct{}{}
				resp, err := p.post(b, c, "/v1/completions", `{"prompt":"x"}`, nil)
				if err != nil {
					b.Fatal(err)
				}
				for n := 0; ; {
					k, err := resp.Body.Read(buf)
					if n += k; n%len(piece) == 0 && n < pieces*len(piece) && k > 0 {
						step <- struct{}{}
					}
					if err == io.EOF {
						break
					} else if err != nil {
						b.Fatal(err)
					}
				}
				resp.Body.Close()
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*pieces), "µs/piece")
		})
	}
}

// reverseProxy serves what the port serves with the standard library's proxy, without any check.
func reverseProxy(b *testing.B, p portUnderTest) string {
	b.Helper()
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: engineHost}) },
		Transport:     p.engine.Transport(),
		FlushInterval: -1,
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex() // see forward: without it streams break off now and then
		proxy.ServeHTTP(w, r)
	})
	srv := &http.Server{Handler: h, TLSConfig: identity.ServerConfig(issue(b, p.ca, asAgent).Certificate, p.ca.Pool(), true)}
	srv.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){} // HTTP/1.1, as the port
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.ServeTLS(l, "", "") }()
	b.Cleanup(func() { srv.Close(); <-done })
	return "https://" + l.Addr().String()
}
