package agent

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// envEngine makes the test binary an engine. Its value is a folder in which the test puts files to steer it:
//
//	crash      the engine prints lines and exits with 3 when it starts
//	crashonce  so too, and removes the file
//	porttaken  rank 0 ends because its port is in use, once
//	loading    health answers 503 while it is there
//	progress   meanwhile the output counts weights
//	hang       nothing is answered any more
//	notoken    completions hang, health does not
//	stubborn   SIGTERM is ignored, and a grandchild in a session of its own runs
//	die        a running engine prints lines and exits with 4
const envEngine = "AGENT_TEST_ENGINE"

type fakeEngine struct {
	dir     string
	running atomic.Int64
	tokens  atomic.Int64
}

func (e *fakeEngine) has(name string) bool {
	_, err := os.Stat(filepath.Join(e.dir, name))
	return err == nil
}

// playEngine takes the simulated engine's flags, as far as it needs them.
func playEngine(dir string, args []string) int {
	e := &fakeEngine{dir: dir}
	flags := map[string]string{}
	for i, arg := range args {
		if name, ok := strings.CutPrefix(arg, "--"); ok {
			flags[name] = strings.Join(args[i+1:min(i+2, len(args))], "")
		}
	}
	fmt.Println("engine begins", strings.Join(args, " "))
	if e.has("crash") || e.has("crashonce") {
		_ = os.Remove(filepath.Join(dir, "crashonce"))
		for i := range 30 {
			fmt.Fprintf(os.Stderr, "traceback line %d\n", i)
		}
		fmt.Fprintln(os.Stderr, "CUDA error: out of memory")
		return 3
	}
	if e.has("porttaken") && flags["node-rank"] != "1" {
		_ = os.Remove(filepath.Join(dir, "porttaken"))
		fmt.Fprintln(os.Stderr, "OSError: [Errno 98] Address already in use")
		return 1
	}
	if e.has("stubborn") {
		signal.Ignore(syscall.SIGTERM)
		child := exec.Command("sleep", "600")
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := child.Start(); err != nil {
			return 2
		}
		_ = os.WriteFile(filepath.Join(dir, "grandchild"), []byte(strconv.Itoa(child.Process.Pid)), 0o600)
	} else {
		term := make(chan os.Signal, 1)
		signal.Notify(term, syscall.SIGTERM)
		go func() { <-term; fmt.Println("told to end"); os.Exit(0) }()
	}
	go e.dieWhenTold()
	go e.count()
	network, address := "unix", flags["uds"]
	if address == "" {
		network, address = "tcp", net.JoinHostPort(flags["host"], flags["port"])
	}
	if _, headless := flags["headless"]; headless {
		select {}
	}
	l, err := net.Listen(network, address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_ = http.Serve(l, e)
	return 1
}

func (e *fakeEngine) dieWhenTold() {
	for ; !e.has("die"); time.Sleep(5 * time.Millisecond) {
	}
	_ = os.Remove(filepath.Join(e.dir, "die"))
	fmt.Fprintln(os.Stderr, "segmentation fault, so to speak")
	os.Exit(4)
}

// count speaks of loading as the simulated engine does.
func (e *fakeEngine) count() {
	for i := 1; ; i++ {
		if e.has("progress") {
			fmt.Printf("loading weights %d/100000 bytes\n", i)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (e *fakeEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if e.has("hang") {
		<-r.Context().Done()
		return
	}
	switch r.URL.Path {
	case "/health":
		if e.has("loading") {
			http.Error(w, "Loading model", http.StatusServiceUnavailable)
		}
	case "/v1/models":
		_, _ = io.WriteString(w, `{"data":[{"id":"test-model"}]}`)
	case "/metrics":
		fmt.Fprintf(w, "vllm:num_requests_running %d\nvllm:num_requests_waiting 0\nvllm:generation_tokens_total %d\nvllm:kv_cache_usage_perc 0.25\n",
			e.running.Load(), e.tokens.Load())
	case "/v1/completions":
		e.complete(w, r)
	case "/environ":
		_ = json.NewEncoder(w).Encode(os.Environ())
	default:
		http.NotFound(w, r)
	}
}

// complete answers "t0 t1 t2 ...", one token each time the file tokenN appears where the request asks for steps.
func (e *fakeEngine) complete(w http.ResponseWriter, r *http.Request) {
	var q struct {
		MaxTokens int    `json:"max_tokens"`
		Stream    bool   `json:"stream"`
		Forever   bool   `json:"forever"`
		Prompt    string `json:"prompt"`
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	e.running.Add(1)
	defer e.running.Add(-1)
	if e.has("notoken") {
		<-r.Context().Done()
		return
	}
	if !q.Stream {
		e.tokens.Add(1)
		_, _ = io.WriteString(w, `{"choices":[{"text":"t0"}],"usage":{"completion_tokens":1}}`)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for i := 0; i < q.MaxTokens || q.Forever; i++ {
		e.tokens.Add(1)
		fmt.Fprintf(w, "data: t%d\n\n", i)
		if http.NewResponseController(w).Flush() != nil || r.Context().Err() != nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	_, _ = io.WriteString(w, "data: [DONE]\n\n")
}
