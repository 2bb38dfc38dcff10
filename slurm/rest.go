package slurm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/scheduler/statefile"
)

// REST says where slurmrestd is: on a unix socket, where it acts as the user that runs it, or at an address, with a token.
type REST struct {
	Socket    string // absolute path
	URL       string // http or https, without a path
	TokenFile string // a file of this user's alone with a JSON web token; read for each question, so that it may be renewed
}

// ParseREST reads unix:PATH, http://HOST:PORT or https://HOST:PORT. A token crosses the network only encrypted.
func ParseREST(at, tokenFile string) (*REST, error) {
	if path, ok := strings.CutPrefix(at, "unix:"); ok {
		if !filepath.IsAbs(path) || len(path) > 107 {
			return nil, fmt.Errorf("slurmrestd's socket %q is no absolute path of at most 107 bytes", path)
		}
		return &REST{Socket: filepath.Clean(path), TokenFile: tokenFile}, nil
	}
	u, err := url.Parse(at)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" || u.User != nil || u.RawQuery != "":
		return nil, fmt.Errorf("slurmrestd at %q: write unix:PATH, or https://HOST:PORT", at)
	case tokenFile == "":
		return nil, fmt.Errorf("slurmrestd at %s needs a token: write one into a file of your own, `(umask 077; scontrol token | cut -d= -f2 >FILE)`, and name the file", at)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return nil, fmt.Errorf("slurmrestd at %s would get the token in clear text: use https, or a tunnel to this host", at)
	}
	return &REST{URL: u.Scheme + "://" + u.Host, TokenFile: tokenFile}, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// The parsers of slurmrestd that are spoken: one that 24.11 to 26.05 have, and the youngest of 22.05.
const (
	parserNew = "v0.0.42"
	parserOld = "v0.0.38"
)

// rest is the transport over slurmrestd. It starts no goroutine that outlives a question.
type rest struct {
	at      REST
	env     []string // of jobs
	client  *http.Client
	metrics metrics

	mu     sync.Mutex
	parser string // empty = not found out yet
}

var _ transport = &rest{}

func newREST(at REST, environ []string, m metrics) *rest {
	dialer := net.Dialer{Timeout: restDial}
	t := &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10, TLSHandshakeTimeout: restDial, Proxy: nil}
	t.DialContext = dialer.DialContext
	if at.Socket != "" {
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", at.Socket)
		}
	}
	refuse := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // a token goes nowhere else
	return &rest{at: at, env: restEnvironment(environ), metrics: m, client: &http.Client{Transport: t, CheckRedirect: refuse}}
}

const (
	restDial = 5 * time.Second
	// maxAnswer bounds an answer. A job is 14 kB in the newer ones, and all users' are listed.
	maxAnswer = 1 << 30
	maxError  = 1 << 20
	maxToken  = 64 << 10
)

// ask sends one question and returns the answer's body, which the caller closes. path is behind /slurm/PARSER.
func (r *rest) ask(ctx context.Context, method, path string, body []byte) (io.ReadCloser, error) {
	parser, err := r.version(ctx)
	if err != nil {
		return nil, err
	}
	return r.send(ctx, method, "/slurm/"+parser+path, body)
}

// send sends a question. An answer that is Slurm's own no is a *failure.
func (r *rest) send(ctx context.Context, method, path string, body []byte) (answer io.ReadCloser, err error) {
	began := time.Now()
	defer func() { r.metrics.called("slurmrestd", began, err) }()
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	base := r.at.URL
	if r.at.Socket != "" {
		base = "http://slurmrestd"
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, strings.NewReader(string(body)))
	if err != nil {
		cancel()
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if err := r.authenticate(req); err != nil {
		cancel()
		return nil, err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("slurmrestd at %s: %w", r.where(), unwrapURL(err))
	}
	stream := bounded{io.LimitReader(resp.Body, maxAnswer), resp.Body, cancel}
	if resp.StatusCode == http.StatusOK {
		return stream, nil
	}
	defer stream.Close()
	text, err := io.ReadAll(io.LimitReader(stream, maxError))
	if err != nil {
		return nil, fmt.Errorf("slurmrestd at %s: %w", r.where(), err)
	}
	return nil, refusalOf(resp.StatusCode, text)
}

// bounded is an answer with its context.
type bounded struct {
	io.Reader
	body   io.Closer
	cancel context.CancelFunc
}

func (b bounded) Close() error {
	defer b.cancel()
	return b.body.Close()
}

// unwrapURL leaves out method and URL, which Go puts before every error.
func unwrapURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func (r *rest) where() string {
	if r.at.Socket != "" {
		return r.at.Socket
	}
	return r.at.URL
}

// authenticate adds the token, where there is one.
func (r *rest) authenticate(req *http.Request) error {
	if r.at.TokenFile == "" {
		return nil
	}
	text, err := statefile.ReadPrivate(r.at.TokenFile, maxToken)
	if err != nil {
		return fmt.Errorf("read slurmrestd's token: %w", err)
	}
	token := strings.TrimPrefix(strings.TrimSpace(string(text)), "SLURM_JWT=")
	if token == "" || strings.ContainsAny(token, " \n\r\t") {
		return fmt.Errorf("%s holds no token", r.at.TokenFile)
	}
	req.Header.Set("X-SLURM-USER-NAME", myUser())
	req.Header.Set("X-SLURM-USER-TOKEN", token)
	return nil
}

// version finds out once which parser this slurmrestd has.
func (r *rest) version(ctx context.Context) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.parser != "" {
		return r.parser, nil
	}
	for _, p := range []struct{ name, ping string }{{parserNew, "/ping/"}, {parserOld, "/ping"}} {
		answer, err := r.send(ctx, http.MethodGet, "/slurm/"+p.name+p.ping, nil)
		if err == nil {
			r.parser = p.name
			return r.parser, answer.Close()
		}
		f := (*failure)(nil)
		switch {
		case !errors.As(err, &f) || f.code == http.StatusUnauthorized:
			return "", err
		case f.code != http.StatusNotFound: // it has the parser, and lacks slurmctld
			r.parser = p.name
			return r.parser, nil
		}
	}
	return "", fmt.Errorf("slurmrestd at %s has neither %s (24.11 to 26.05) nor %s (22.05): use Slurm's commands", r.where(), parserNew, parserOld)
}

// old tells whether the answers are 22.05's. It is asked after a first answer only.
func (r *rest) old() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.parser == parserOld
}

// drains: 22.05 sends a signal to every process of a job, the engine among them.
func (r *rest) drains() bool { return !r.old() }

// restEnvironment is what jobs are given, since slurmrestd has no login environment to offer: where things are, and who asks.
func restEnvironment(environ []string) (env []string) {
	for _, entry := range environ {
		switch name, _, _ := strings.Cut(entry, "="); name {
		case "PATH", "HOME", "USER", "LOGNAME", "SHELL", "SLURM_CONF":
			env = append(env, entry)
		}
	}
	if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		env = append(env, "PATH=/usr/local/bin:/usr/bin:/bin")
	}
	return env
}
