package server

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/identity"
)

// outside is a server with what strangers can reach of it, over plain HTTP.
func outside(t *testing.T) (s *Server, url string, log *bytes.Buffer) {
	t.Helper()
	tokens, err := identity.OpenJoinTokens(filepath.Join(t.TempDir(), "ca"))
	if err != nil {
		t.Fatal(err)
	}
	log = &bytes.Buffer{}
	s = &Server{o: Options{Tokens: tokens}, commands: newCommands(), patience: strangerTime}
	s.refusals = refusalLogs(zerolog.New(zerolog.SyncWriter(log)))
	s.metrics.refused = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "refused"}, []string{"code"})
	srv := httptest.NewServer(s.Agents())
	t.Cleanup(srv.Close)
	return s, srv.URL, log
}

// TestStrangersAreRefusedAtASmallPrice: whatever strangers send, they are counted, named in a few short lines, and no more.
func TestStrangersAreRefusedAtASmallPrice(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, path, body string
		answer, says     string
		counted          bool
	}{
		{"join", apiv1.AgentServiceJoinProcedure, `{"token":"pst-x","launch":"` + strings.Repeat("l", 10<<10) + `"}`, "unauthenticated", "join refused", true},
		{"enroll", apiv1.EnrollServiceEnrollProcedure, `{"token":"pst-x","name":"gw"}`, "unauthenticated", "enroll refused", true},
		{"another call", apiv1.ControlServiceShutdownProcedure, `{}`, "unauthenticated", "call refused", true},
		{"a long path", "/" + strings.Repeat("p", 10<<10), `{}`, "unauthenticated", "call refused", true},
		{"a large join", apiv1.AgentServiceJoinProcedure, `{"launch":"` + strings.Repeat("l", strangerBody) + `"}`, "resource_exhausted", "", false},
	} {
		s, url, log := outside(t)
		const times = 3 * refusalsPerMinute
		for range times {
			resp, err := http.Post(url+c.path, "application/json", strings.NewReader(c.body))
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			text, err := io.ReadAll(resp.Body)
			if err != nil || !strings.Contains(string(text), c.answer) {
				t.Fatalf("%s: answer %s, %v", c.name, text, err)
			}
			resp.Body.Close()
		}
		lines := strings.Count(log.String(), "\n")
		if !strings.Contains(log.String(), c.says) || (lines == 0) == c.counted || lines > refusalsPerMinute || log.Len() > lines*500 {
			t.Errorf("%s: %d lines, %d bytes: %.300s", c.name, lines, log.Len(), log)
		}
		if n := counted(t, s.metrics.refused); c.counted && n != times {
			t.Errorf("%s: counted %v of %d", c.name, n, times)
		}
	}
}

func counted(t *testing.T, c prometheus.Collector) (n float64) {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			n += m.GetCounter().GetValue()
		}
	}
	return n
}

// TestStrangersAreCutOff: a call that is never sent to its end holds its connection for a bounded time.
func TestStrangersAreCutOff(t *testing.T) {
	t.Parallel()
	s, url, _ := outside(t)
	s.patience = 50 * time.Millisecond
	for _, path := range []string{apiv1.AgentServiceJoinProcedure, apiv1.ControlServiceStatusProcedure} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "POST "+path+" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, conn); os.IsTimeout(err) {
			t.Errorf("%s: the connection is still open", path)
		}
	}
}

// TestAFloodHidesNothing: after a thousand refused calls, a guessed token is still written down.
func TestAFloodHidesNothing(t *testing.T) {
	t.Parallel()
	s, url, log := outside(t)
	for range 1000 {
		s.refuse(callRefused, connect.CodeUnauthenticated, nil, "call", "x")
	}
	resp, err := http.Post(url+apiv1.EnrollServiceEnrollProcedure, "application/json", strings.NewReader(`{"token":"pst-x","name":"gw"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if !strings.Contains(log.String(), string(enrollRefused)) {
		t.Errorf("no trace in %s", log)
	}
}
