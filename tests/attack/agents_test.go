package attack

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/scheduler/identity"
)

// agentArgs are data ports, and all that the process table and the certificates tell of them.
type agentArgs struct {
	Ports []dataPort
	State string // of the installation whose authority signs
}

type dataPort struct {
	Address, Launch string
	Epoch           int
}

// tlsRefusals are what a TLS port says to a stranger. A port that closes before it has read all that was sent to it
// resets the connection, and with it may go what it said.
var tlsRefusals = []string{"remote error: tls: ", "connection reset by peer", "broken pipe", "HTTP/1.0 400"}

// attackAgents goes for the engines, past the gateway, through the agents' ports.
func attackAgents(t *testing.T, s *siege) {
	args := agentArgs{State: s.rival.State()}
	for _, r := range s.replicas() {
		args.Ports = append(args.Ports, dataPort{r.Address, r.Launch, r.Epoch})
	}
	s.fails(t, "data ports", args, tlsRefusals...)
	args.State = s.victim.State()
	s.works(t, "data ports as a gateway of the installation", args)
	for _, r := range s.replicas() {
		waitFor(t, "the agent of "+r.Name+" tells of refused connections", func() bool {
			return bytes.Contains(agentLog(t, s, r.Launch), []byte("connection refused"))
		})
	}
}

func agentLog(t *testing.T, s *siege, launch string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.victim.State(), "logs", "attacked", launch, "agent-0.log"))
	must(t, err)
	return text
}

func init() {
	tricks["data ports"] = tryDataPorts
	tricks["data ports as a gateway of the installation"] = useDataPorts
}

// completion is a request that the engine would answer.
func (p dataPort) completion() string {
	return post("/v1/completions", fmt.Sprintf("Penstock-Launch: %s\r\nPenstock-Epoch: %d\r\n", p.Launch, p.Epoch),
		`{"model":"tiny","prompt":"Let me in.","max_tokens":4}`)
}

func tryDataPorts(in []byte, n *notes) error {
	var args agentArgs
	if err := json.Unmarshal(in, &args); err != nil {
		return err
	}
	for _, port := range args.Ports {
		list, err := disguises(port.Address, args.State, port.Launch)
		if err != nil {
			return err
		}
		for _, request := range []string{
			port.completion(), "GET /penstock/metrics HTTP/1.1\r\nHost: penstock\r\n\r\n", post("/penstock/gang", "", `{"rank":1}`),
		} {
			line, err := speak(port.Address, nil, request)
			n.try("ask for an answer, for metrics, to be a rank, in plain text", port.Address, refusedAnswer(line, err, "HTTP/1.0 400"))
			for _, d := range append(list, disguise{name: "nobody, without a certificate"}) {
				line, err := speak(port.Address, d.config(), request)
				n.try("the same as "+d.name, port.Address+" said "+line, err)
			}
		}
	}
	return nil
}

// useDataPorts is the control: the same request with a certificate of the right authority.
func useDataPorts(in []byte, n *notes) error {
	var args agentArgs
	if err := json.Unmarshal(in, &args); err != nil {
		return err
	}
	ca, err := identity.OpenCA(filepath.Join(args.State, "ca"))
	if err != nil {
		return err
	}
	cert, err := ca.Issue(identity.ID{Role: identity.Gateway, Name: "control"}, time.Hour, time.Now())
	if err != nil {
		return err
	}
	for _, port := range args.Ports {
		line, err := speak(port.Address, disguise{cert: &cert}.config(), port.completion())
		if err == nil && !strings.HasPrefix(line, "HTTP/1.1 200") {
			err = fmt.Errorf("answer %q", line)
		}
		n.try("ask for an answer", port.Address, err)
	}
	return nil
}
