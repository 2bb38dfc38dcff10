package attack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

type controllerArgs struct {
	URL, Address  string
	State, Launch string
}

func (s *siege) controllerArgs(t *testing.T) controllerArgs {
	t.Helper()
	at := s.endpoint(t).URL
	return controllerArgs{URL: at, Address: hostOf(t, at), State: s.rival.State(), Launch: s.replicas()[0].Launch}
}

// attackController makes every call that there is, without a certificate.
func attackController(t *testing.T, s *siege) {
	args := s.controllerArgs(t)
	s.fails(t, "calls without a certificate", args, "unauthenticated", "unsupported media type")
	s.fails(t, "plain text to the controller", args, "HTTP/1.0 400")
	args.State = s.victim.State()
	s.works(t, "a call as the owner", args)
	s.tells(t, "call refused")
	if n := s.counter(t, `penstock_controller_refused_total{code="unauthenticated"}`); n < 20 {
		t.Errorf("the counter of refused calls shows %v", n)
	}
}

// attackControllerDisguised comes with certificates that the controller's authority has not signed.
func attackControllerDisguised(t *testing.T, s *siege) {
	s.fails(t, "calls in disguise", s.controllerArgs(t), tlsRefusals...)
	s.tells(t, "connection refused")
}

// tells waits for words in the controller's log.
func (s *siege) tells(t *testing.T, words string) {
	t.Helper()
	waitFor(t, fmt.Sprintf("the controller's log says %q", words), func() bool {
		text, err := os.ReadFile(filepath.Join(s.victim.State(), "serve.log"))
		return err == nil && bytes.Contains(text, []byte(words))
	})
}

// counter reads one of the controller's metrics, through its gateway.
func (s *siege) counter(t *testing.T, name string) (value float64) {
	t.Helper()
	text := s.get(t, strings.TrimSuffix(s.client.URL, "/v1")+"/metrics")
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			_, err := fmt.Sscan(rest, &value)
			must(t, err)
			return value
		}
	}
	t.Errorf("no metric %s", name)
	return 0
}

// get reads a page of the gateway with the victim's key.
func (s *siege) get(t *testing.T, at string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at, nil)
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+s.client.Key)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %s", at, resp.StatusCode, body)
	}
	return string(body)
}

func init() {
	tricks["calls without a certificate"] = callWithoutCertificate
	tricks["plain text to the controller"] = speakPlainly
	tricks["calls in disguise"] = callDisguised
	tricks["a call as the owner"] = callAsOwner
}

// client speaks HTTP/2 in a disguise.
func client(d disguise) *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: d.config(), ForceAttemptHTTP2: true}}
}

// procedures are all calls of all services.
func procedures() (list []string) {
	services := apiv1.File_v1_penstock_proto.Services()
	for i := range services.Len() {
		for j := range services.Get(i).Methods().Len() {
			list = append(list, "/"+string(services.Get(i).FullName())+"/"+string(services.Get(i).Methods().Get(j).Name()))
		}
	}
	return list
}

func callWithoutCertificate(in []byte, n *notes) error {
	var args controllerArgs
	if err := json.Unmarshal(in, &args); err != nil {
		return err
	}
	c := client(disguise{})
	if len(procedures()) < 20 {
		return errors.New("where are the calls?")
	}
	for _, p := range procedures() {
		n.try("call everything", p, call(c, args.URL+p, "application/json", []byte("{}")))
		n.try("call everything as a stream", p, call(c, args.URL+p, "application/connect+json", []byte("\x00\x00\x00\x00\x02{}")))
		n.try("call everything as gRPC", p, call(c, args.URL+p, "application/grpc", []byte("\x00\x00\x00\x00\x00")))
	}
	join := args.URL + apiv1.AgentServiceJoinProcedure
	for _, path := range []string{
		"/", "/metrics", "/debug/pprof/", "/penstock.v1.ControlService/", "//penstock.v1.ControlService/Shutdown",
		"/penstock.v1.AgentService/../penstock.v1.ControlService/Shutdown", "/penstock.v1.ControlService/Shutdown/", "/penstock.v1.ControlService/%53hutdown",
	} {
		n.try("ask for other paths", path, call(c, args.URL+path, "application/json", []byte("{}")))
	}
	for _, suffix := range []string{"/../../penstock.v1.ControlService/Shutdown", "%2f..%2f..%2fpenstock.v1.ControlService%2fShutdown", "?connect=v1&method=Shutdown"} {
		n.try("turn a free call into another", suffix, call(c, join+suffix, "application/json", []byte("{}")))
	}
	n.try("report as an agent", args.Launch, report(c, args))
	return nil
}

// call makes one call. Whoever lets nobody in says "unauthenticated", in the form of its protocol.
func call(c *http.Client, at, kind string, body []byte) error {
	req, err := http.NewRequestWithContext(timeless, http.MethodPost, at, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", kind)
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return err
	}
	grpc := fmt.Sprint(int(connect.CodeUnauthenticated))
	if bytes.Contains(text, []byte(`"code":"unauthenticated"`)) || resp.Header.Get("Grpc-Status") == grpc || resp.Trailer.Get("Grpc-Status") == grpc {
		return errors.New("unauthenticated")
	}
	if resp.StatusCode == http.StatusUnsupportedMediaType { // Join and Enroll are no streams
		return errors.New("unsupported media type")
	}
	return nil
}

// report pretends to be a replica with nothing to do.
func report(c *http.Client, args controllerArgs) error {
	ctx, cancel := context.WithTimeout(timeless, patience)
	defer cancel()
	stream, err := apiv1.NewAgentServiceClient(c, args.URL).Report(ctx)
	if err != nil {
		return codeOf(err)
	}
	_ = stream.Send(&apiv1.ReportRequest{})
	_, err = stream.Receive()
	return codeOf(err)
}

func speakPlainly(in []byte, n *notes) error {
	var args controllerArgs
	if err := json.Unmarshal(in, &args); err != nil {
		return err
	}
	for _, p := range procedures() {
		line, err := speak(args.Address, nil, post(p, "", "{}"))
		n.try("call everything in plain text", p+" said "+line, refusedAnswer(line, err, "HTTP/1.0 400"))
	}
	return nil
}

func callDisguised(in []byte, n *notes) error {
	var args controllerArgs
	if err := json.Unmarshal(in, &args); err != nil {
		return err
	}
	list, err := disguises(args.Address, args.State, args.Launch)
	if err != nil {
		return err
	}
	for _, d := range list {
		for _, p := range []string{
			apiv1.ControlServiceStatusProcedure, apiv1.ControlServiceShutdownProcedure, apiv1.ControlServiceCreateKeyProcedure,
			apiv1.GatewayServiceWatchProcedure, apiv1.AgentServiceReportProcedure, apiv1.EnrollServiceEnrollProcedure,
		} {
			line, err := speak(args.Address, d.config(), post(p, "", "{}"))
			n.try("call as "+d.name, p+" said "+line, err)
		}
	}
	return nil
}

// callAsOwner is the control: the file that the owner keeps opens the door.
func callAsOwner(in []byte, n *notes) error {
	var args controllerArgs
	if err := json.Unmarshal(in, &args); err != nil {
		return err
	}
	cert, err := ownerOf(args.State)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(timeless, patience)
	defer cancel()
	_, err = apiv1.NewControlServiceClient(client(disguise{cert: cert}), args.URL).Version(ctx, &apiv1.VersionRequest{})
	n.try("call as the owner", args.URL, err)
	return nil
}

const soon = 20 * time.Second
