package nomadtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// refusal is an error with Nomad's status; its body is plain text.
type refusal struct {
	status int
	text   string
	body   any // instead of the text, as JSON
}

func (r *refusal) Error() string { return r.text }

func refuse(status int, format string, args ...any) error {
	return &refusal{status: status, text: fmt.Sprintf(format, args...)}
}

// call is one request, with what every handler asks of it.
type call struct {
	*http.Request
	namespace string
}

func (c call) read(v any) error {
	if err := json.NewDecoder(io.LimitReader(c.Body, 8<<20)).Decode(v); err != nil && !errors.Is(err, io.EOF) {
		return refuse(http.StatusBadRequest, "%v", err)
	}
	return nil
}

// in says whether something of a namespace belongs into the answer.
func (c call) in(namespace string) bool { return c.namespace == "*" || c.namespace == namespace }

// answer is a handler under the lock: what it returns becomes JSON. index is that of the newest thing in the answer.
type answer func(c call) (body any, index uint64, err error)

// handle serves a path with the headers, blocking queries and faults that all answers have.
func (s *Server) handle(mux *http.ServeMux, pattern string, do answer) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		c, ok := s.admit(w, r)
		if !ok {
			return
		}
		body, index, err := s.blocking(c, do)
		if r.Context().Err() != nil {
			return
		}
		s.write(w, body, index, err)
	})
}

// admit answers what every path refuses alike.
func (s *Server) admit(w http.ResponseWriter, r *http.Request) (call, bool) {
	c := call{Request: r, namespace: r.URL.Query().Get("namespace")}
	if c.namespace == "" {
		c.namespace = "default"
	}
	if err := s.fault(r); err != nil {
		s.write(w, nil, 0, err)
		return c, false
	}
	if s.opts.Token != "" && r.Header.Get("X-Nomad-Token") != s.opts.Token {
		s.write(w, nil, 0, refuse(http.StatusForbidden, "Permission denied"))
		return c, false
	}
	return c, true
}

// blocking answers at once, or once the answer's index is above the one that the client has seen.
func (s *Server) blocking(c call, do answer) (body any, index uint64, err error) {
	seen, _ := strconv.ParseUint(c.URL.Query().Get("index"), 10, 64)
	limit, err := time.ParseDuration(c.URL.Query().Get("wait"))
	if err != nil || limit <= 0 || limit > 10*time.Minute {
		limit = 5 * time.Minute
	}
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	for {
		s.mu.Lock()
		body, index, err = do(c)
		changed, closed := s.changed, s.closed
		if body != nil { // encoded under the lock, since it may share what changes
			if text, e := json.Marshal(body); e == nil {
				body = json.RawMessage(text)
			} else {
				err = e
			}
		}
		s.mu.Unlock()
		if c.Method != http.MethodGet || seen == 0 || index > seen || err != nil || closed {
			return body, index, err
		}
		select {
		case <-changed:
		case <-deadline.C:
			return body, index, nil
		case <-c.Context().Done():
			return nil, 0, c.Context().Err()
		}
	}
}

func (s *Server) write(w http.ResponseWriter, body any, index uint64, err error) {
	var no *refusal
	switch {
	case errors.As(err, &no) && no.body != nil:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(no.status)
		_ = json.NewEncoder(w).Encode(no.body)
		return
	case errors.As(err, &no):
		http.Error(w, no.text, no.status)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Nomad-Index", strconv.FormatUint(index, 10))
	w.Header().Set("X-Nomad-LastContact", "0")
	w.Header().Set("X-Nomad-KnownLeader", "true")
	text, ok := body.(json.RawMessage)
	if !ok {
		text = json.RawMessage("null")
	}
	_, _ = w.Write(text)
}

// handler has all paths.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, do := range map[string]answer{
		"GET /v1/jobs": s.listJobs, "PUT /v1/jobs": s.register, "PUT /v1/validate/job": s.validate,
		"PUT /v1/jobs/parse": func(call) (any, uint64, error) {
			return nil, 0, refuse(http.StatusNotImplemented, "nomadtest is a fake and parses no HCL")
		},
		"GET /v1/evaluations": s.listEvaluations, "GET /v1/evaluation/{id}": s.readEvaluation,
		"GET /v1/allocations": s.listAllocations, "GET /v1/allocation/{id}": s.readAllocation,
		"PUT /v1/allocation/{id}/stop":           s.stopAllocation,
		"PUT /v1/client/allocation/{id}/signal":  s.signalAllocation,
		"PUT /v1/client/allocation/{id}/restart": s.restartAllocation,
		"GET /v1/deployments":                    s.listDeployments, "GET /v1/deployment/{id}": s.readDeployment,
		"GET /v1/deployment/allocations/{id}": s.deploymentAllocations,
		"PUT /v1/deployment/promote/{id}":     s.promote, "PUT /v1/deployment/fail/{id}": s.failDeployment,
		"GET /v1/nodes": s.listNodes, "GET /v1/node/{id}": s.readNode, "GET /v1/node/{id}/allocations": s.nodeAllocations,
		"PUT /v1/node/{id}/drain": s.drain, "PUT /v1/node/{id}/eligibility": s.eligibility,
		"GET /v1/namespaces": s.listNamespaces,
		"GET /v1/vars":       s.listVariables, "GET /v1/var/{path...}": s.readVariable,
		"PUT /v1/var/{path...}": s.putVariable, "DELETE /v1/var/{path...}": s.deleteVariable,
		"GET /v1/agent/self": s.self, "GET /v1/agent/health": s.health, "GET /v1/status/leader": s.leader,
		"GET /v1/regions": func(call) (any, uint64, error) { return []string{"global"}, s.index, nil },
		"PUT /v1/search":  s.search,
	} {
		s.handle(mux, pattern, do)
	}
	// Job IDs may contain slashes (a client escapes them); what follows the ID is the last part.
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		s.handle(mux, method+" /v1/job/{rest...}", s.ofOneJob)
	}
	mux.HandleFunc("GET /v1/event/stream", s.stream)
	mux.HandleFunc("GET /v1/client/fs/logs/{id}", s.logs)
	return mux
}
