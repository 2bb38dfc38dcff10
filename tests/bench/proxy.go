package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/tests/installation"
)

// proxied is what the reference proxy stands in front of.
type proxied struct {
	State    string // whose CA lets it in
	Replicas []installation.Replica
}

// playProxy is httputil.ReverseProxy in front of the agents, in turn. It tells its address, and ends with its input.
func playProxy([]string) error {
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	var p proxied
	if err := json.Unmarshal(line, &p); err != nil {
		return err
	}
	ca, err := identity.OpenCA(filepath.Join(p.State, "ca"))
	if err != nil {
		return err
	}
	cert, err := ca.Issue(identity.ID{Role: identity.Gateway, Name: "reference"}, time.Hour, time.Now())
	if err != nil {
		return err
	}
	own := func() *tls.Certificate { return &cert }
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: p.handler(identity.ClientConfig(own, ca.Pool(), identity.WantRole(identity.Agent))), ErrorLog: stdlog.New(io.Discard, "", 0)}
	go func() {
		_, _ = io.Copy(io.Discard, in)
		_ = srv.Close()
	}()
	fmt.Printf("%q\n", l.Addr())
	_ = srv.Serve(l)
	return nil
}

func (p proxied) handler(conf *tls.Config) http.Handler {
	var turn atomic.Uint64
	proxy := &httputil.ReverseProxy{
		FlushInterval: -1,
		ErrorLog:      stdlog.New(io.Discard, "", 0),
		Transport:     &http.Transport{TLSClientConfig: conf, MaxIdleConnsPerHost: 1024, DisableCompression: true},
		Rewrite: func(r *httputil.ProxyRequest) {
			to := p.Replicas[turn.Add(1)%uint64(len(p.Replicas))]
			r.SetURL(&url.URL{Scheme: "https", Host: to.Address})
			r.Out.Header.Set("Penstock-Launch", to.Launch)
			r.Out.Header.Set("Penstock-Epoch", strconv.Itoa(to.Epoch))
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Without it the server now and then cuts a stream that began before the end of the request's body was seen.
		_ = http.NewResponseController(w).EnableFullDuplex()
		proxy.ServeHTTP(w, r)
	})
}
