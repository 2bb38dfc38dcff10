package identity

import (
	"bytes"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"
)

// lines keeps a log. Safe for concurrent use.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestRefusalsAreLogged: a stranger leaves a trace, and however often he comes he does not fill the disk.
func TestRefusalsAreLogged(t *testing.T) {
	t.Parallel()
	ca, log := newCA(t), &lines{}
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = RefusalLog(zerolog.New(log).Level(zerolog.InfoLevel))
	srv.TLS = ServerConfig(fixed(mustIssue(t, ca, controllerID)), ca.Pool(), true)
	srv.StartTLS()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // a stranger's
	for range 5 * refusalsPerMinute {
		if resp, err := client.Get(srv.URL); err == nil {
			resp.Body.Close()
			t.Fatal("a stranger was let in")
		}
	}
	srv.Close() // after which all is written
	text := log.String()
	if n := strings.Count(text, "\n"); n == 0 || n > refusalsPerMinute {
		t.Errorf("%d lines, wanted 1 to %d:\n%s", n, refusalsPerMinute, text)
	}
	for _, want := range []string{`"level":"warn"`, `"from":"127.0.0.1:`, "provide a certificate"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
}

func TestScannersAreNoRefusals(t *testing.T) {
	t.Parallel()
	log := &lines{}
	out := RefusalLog(zerolog.New(log).Level(zerolog.InfoLevel))
	out.Print("http: TLS handshake error from 10.0.0.9:40000: EOF")
	out.Print("http: TLS handshake error from [::1]:40000: read tcp [::1]:1->[::1]:40000: connection reset by peer")
	if text := log.String(); text != "" {
		t.Errorf("at level info: %s", text)
	}
	out.Print("http: panic serving 10.0.0.9:40000: oh")
	if !strings.Contains(log.String(), `"level":"error"`) {
		t.Errorf("a panic is lost: %q", log)
	}
}
