package sim

import (
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
)

// failPath switches failures on and off while the engine runs, for tests.
const failPath = "/sim/fail"

// failRequest is the body of POST /sim/fail.
type failRequest struct {
	Set   []string `json:"set"`   // KIND[:ARG[,ARG]]
	Clear []string `json:"clear"` // KIND, or "all"
}

// admin adds /sim/fail and /sim/state. They answer on a unix socket, or with an API key: not to every user of a node.
func (s *Server) admin(mux *http.ServeMux) {
	if _, unix := s.address.(*net.UnixAddr); !unix && s.opts.APIKey == "" {
		return
	}
	mux.HandleFunc("GET "+failPath, s.showFailures)
	mux.HandleFunc("POST "+failPath, s.changeFailures)
}

func (s *Server) showFailures(w http.ResponseWriter, _ *http.Request) {
	answerValue(w, map[string][]string{"failures": s.faults.list()})
}

func (s *Server) changeFailures(w http.ResponseWriter, r *http.Request) {
	var req failRequest
	if err := decodeBody(r, &req); err != nil {
		fail(w, err)
		return
	}
	var on []Failure
	for _, spec := range req.Set {
		f, err := ParseFailure(spec)
		if err != nil {
			fail(w, badRequest("set", "%v", err))
			return
		}
		on = append(on, f)
	}
	off, err := kindsToClear(req.Clear)
	if err != nil {
		fail(w, err)
		return
	}
	s.faults.set(on, off, s.engine.generated.Load())
	s.engine.post(func() {}) // so that it looks
	for _, f := range on {
		if f.Kind == Grandchild {
			if err := s.startGrandchild(); err != nil {
				fail(w, internalError(err.Error()))
				return
			}
		}
	}
	s.showFailures(w, r)
}

func kindsToClear(names []string) (off []FailureKind, _ *apiError) {
	for _, n := range names {
		if n == "all" {
			names = failureKinds()
			break
		}
	}
	for _, n := range names {
		if _, ok := failureSyntax[FailureKind(n)]; !ok {
			return nil, badRequest("clear", "unknown kind %q; known: all, %s", n, strings.Join(failureKinds(), ", "))
		}
		off = append(off, FailureKind(n))
	}
	return off, nil
}

// startGrandchild starts a process that leaves the process group and is nobody's child any more, if that failure is on.
// It keeps the environment, by which it can be found, and its pid is printed.
func (s *Server) startGrandchild() error {
	f, ok := s.faults.get(Grandchild)
	if !ok {
		return nil
	}
	script := fmt.Sprintf("sleep %s >/dev/null 2>&1 </dev/null & echo $!", f.args[0])
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("start a detached process: %w", err)
	}
	fmt.Fprintf(s.opts.Output, "detached process %s", out)
	return nil
}
