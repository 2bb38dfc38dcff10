package sim

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestParseFailure(t *testing.T) {
	t.Parallel()
	for spec, want := range map[string]string{
		"exit":                    "exit:1",
		"exit:3":                  "exit:3",
		"crash-loading:1000,7":    "crash-loading:1000,7",
		"hang":                    "hang:all",
		"hang:inference":          "hang:inference",
		"slow:2.5":                "slow:2.5",
		"refuse:0.1,42":           "refuse:0.1,42",
		"die-after-tokens:5":      "die-after-tokens:5,1",
		"ignore-term":             "ignore-term",
		"explode":                 `failure "explode": unknown kind "explode"; known: crash-loading, die-after-tokens, exit, grandchild, hang, hang-after-tokens, ignore-term, lie-metrics, refuse, slow, stall-loading, wrong-kv`,
		"slow":                    `failure "slow": FACTOR: must be a number above 0 (got "")`,
		"slow:-1":                 `failure "slow:-1": FACTOR: must be a number above 0 (got "-1")`,
		"slow:NaN":                `failure "slow:NaN": FACTOR: must be a number above 0 (got "NaN")`,
		"exit:256":                `failure "exit:256": CODE: must be an exit code from 1 to 255 (got "256")`,
		"exit:1,2":                `failure "exit:1,2": exit takes at most 1 arguments`,
		"refuse:2":                `failure "refuse:2": PROBABILITY: must be from 0 to 1 (got "2")`,
		"hang:some":               `failure "hang:some": WHAT: must be all or inference (got "some")`,
		"wrong-kv:0":              `failure "wrong-kv:0": EVERY: must be a whole number above 0 (got "0")`,
		"hang-after-tokens:1e999": `failure "hang-after-tokens:1e999": TOKENS: must be a whole number (got "1e999")`,
	} {
		f, err := ParseFailure(spec)
		got := f.String()
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s:\n%s, want\n%s", spec, got, want)
		}
	}
}

func failing(specs ...string) func(*Options) {
	return func(o *Options) {
		for _, s := range specs {
			f, err := ParseFailure(s)
			if err != nil {
				panic(err)
			}
			o.Failures = append(o.Failures, f)
		}
	}
}

func TestExitAtStart(t *testing.T) {
	t.Parallel()
	if code := exitCode(launch(t, fast(failing("exit:42"))).exit()); code != 42 {
		t.Errorf("exit code %d", code)
	}
}

func TestDyingCutsStreams(t *testing.T) {
	t.Parallel()
	r := start(t, fast(failing("die-after-tokens:20,137")))
	res := r.open("POST", "/v1/completions", with(greedy, fields{"prompt": "Hi", "max_tokens": 1000, "ignore_eos": true, "stream": true, "return_token_ids": true}))
	defer res.Body.Close()
	chunks, done, err := readChunks(res.Body)
	if done || err == nil || len(idsIn(chunks)) > 20 {
		t.Errorf("the stream gave %d tokens and ended with done=%v, %v", len(idsIn(chunks)), done, err)
	}
	if err := r.exit(); exitCode(err) != 137 {
		t.Errorf("ended with %v", err)
	}
}

func TestHanging(t *testing.T) {
	t.Parallel()
	for spec, healthy := range map[string]bool{"hang": false, "hang:inference": true} {
		r := start(t, fast())
		r.post(failPath, fields{"set": []string{spec}})
		for path, answers := range map[string]bool{"/v1/completions": false, "/health": healthy} {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			method, body := "GET", any(nil)
			if path != "/health" {
				method, body = "POST", fields{"prompt": "a"}
			}
			res, err := r.try(ctx, method, path, body)
			if answers != (err == nil) {
				t.Errorf("%s: %s answers: %v", spec, path, err)
			}
			if err == nil {
				_ = res.Body.Close()
			}
			cancel()
		}
		r.post(failPath, fields{"clear": []string{"all"}})
		if status, _ := r.get("/health"); status != 200 {
			t.Errorf("%s: health after it was cleared: %d", spec, status)
		}
	}
}

func TestRefusing(t *testing.T) {
	t.Parallel()
	pattern := func() (out string) {
		r := start(t, fast(failing("refuse:0.5,3")))
		for range 20 {
			status, _ := r.post("/v1/completions", fields{"prompt": "a", "max_tokens": 1})
			out += fmt.Sprint(status, " ")
		}
		return out
	}
	first := pattern()
	if n := strings.Count(first, "500"); n < 4 || n > 16 || n+strings.Count(first, "200") != 20 {
		t.Errorf("answers %s", first)
	}
	if second := pattern(); second != first {
		t.Errorf("one seed refuses\n%s and\n%s", first, second)
	}
}

func TestLyingMetrics(t *testing.T) {
	t.Parallel()
	r := start(t, fast(func(o *Options) { o.Speedup = 1 }))
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = r.try(ctx, "POST", "/v1/completions", with(greedy, fields{"prompt": "a", "max_tokens": 8000, "ignore_eos": true}))
	}()
	r.eventually("busy", func() bool { return r.metric("vllm:num_requests_running{") == 1 })
	r.post(failPath, fields{"set": []string{"lie-metrics"}})
	if n := r.metric("vllm:num_requests_running{"); n != 0 {
		t.Errorf("it says that %v requests run", n)
	}
	cancel()
	<-gone
}

func TestIgnoringTERM(t *testing.T) {
	t.Parallel()
	r := start(t, fast(failing("ignore-term")))
	r.cancel()
	r.generate("/v1/completions", fields{"prompt": "still there?"})
	if res, err := r.try(t.Context(), "POST", failPath, fields{"clear": []string{"ignore-term"}}); err == nil {
		_ = res.Body.Close() // it may end before it has answered
	}
	if err := r.exit(); err != nil {
		t.Error(err)
	}
}

func TestGrandchildIsDetached(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("sleep"); err != nil {
		t.Skip("no sleep command")
	}
	r := start(t, fast())
	r.post(failPath, fields{"set": []string{"grandchild:60"}})
	var pid int
	if _, err := fmt.Sscanf(r.output.String()[strings.Index(r.output.String(), "detached"):], "detached process %d", &pid); err != nil {
		t.Fatalf("%v in %q", err, r.output)
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGKILL) }()
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	after := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
	if parent, session := after[1], after[3]; parent == strconv.Itoa(os.Getpid()) || session == strconv.Itoa(pidSession(t)) {
		t.Errorf("parent %s, session %s: it is not detached", parent, session)
	}
}

func pidSession(t *testing.T) int {
	t.Helper()
	sid, _, errno := syscall.Syscall(syscall.SYS_GETSID, 0, 0, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	return int(sid)
}

func TestBadFailures(t *testing.T) {
	t.Parallel()
	r := start(t, fast())
	for _, body := range []fields{{"set": []string{"explode"}}, {"clear": []string{"explode"}}} {
		if status, text := r.post(failPath, body); status != http.StatusBadRequest {
			t.Errorf("%v: %d %s", body, status, text)
		}
	}
}

func TestShutdown(t *testing.T) {
	t.Parallel()
	long := with(greedy, fields{"prompt": "a", "max_tokens": 150, "ignore_eos": true})
	for name, c := range map[string]struct {
		timeout  time.Duration
		finishes bool
	}{
		"at once": {0, false},
		"drained": {time.Minute, true},
	} {
		r := start(t, fast(func(o *Options) { o.Speedup, o.ShutdownTimeout = 4, c.timeout }))
		ended := make(chan error, 1)
		go func() {
			res, err := r.try(context.Background(), "POST", "/v1/completions", long)
			if err == nil {
				_ = res.Body.Close()
			}
			ended <- err
		}()
		r.eventually("busy", func() bool { return r.engine.occupied.Load() > 0 })
		r.cancel()
		if c.finishes {
			r.eventually("refusing", func() bool {
				res, err := r.try(context.Background(), "POST", "/v1/completions", fields{"prompt": "b"})
				if err != nil {
					return false
				}
				_ = res.Body.Close()
				return res.StatusCode == http.StatusServiceUnavailable
			})
		}
		if err := <-ended; (err == nil) != c.finishes {
			t.Errorf("%s: the running request ended with %v", name, err)
		}
		if err := r.exit(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPortInUse(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	tcp := func(o *Options) { o.UDS, o.Port = "", port }
	s, err := New(fast(tcp), nothing)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	<-s.Listening()
	other, err := New(fast(tcp), nothing)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Run(t.Context()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("two engines on one port: %v", err)
	}
	res, err := http.Get(fmt.Sprintf("http://%s%s", s.Addr(), failPath))
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusNotFound {
		t.Errorf("failures can be seen over TCP without a key: %d", res.StatusCode)
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
