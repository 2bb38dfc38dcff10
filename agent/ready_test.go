package agent

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// The ready port is open while the run serves, and at no other time; it tells strangers a word and nothing else.
func TestReadyPort(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	port, err := freePort("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	address := "127.0.0.1:" + strconv.Itoa(port)
	open := func() bool {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}
	output := shortDir(t)
	data, err := freePort("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	if open() {
		t.Fatal("somebody else has the port")
	}
	a := w.start(func(o *Options) { o.ReadyAddress, o.OutputDir, o.ListenPort = address, output, data }).reach(started)
	eventually(t, "the ready port opens", open)
	if got := w.controller.state(0).GetIdentity().GetAddress(); got != "127.0.0.1:"+strconv.Itoa(data) {
		t.Errorf("the data port is at %s, want port %d", got, data)
	}

	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}, Timeout: patience}
	for path, want := range map[string]string{"/ready": "200 ready\n", "/": "404 ", "/penstock/metrics": "404 ", "/v1/models": "404 "} {
		resp, err := client.Get("https://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if got := resp.Status[:4] + string(body); !strings.HasPrefix(got, want) {
			t.Errorf("GET %s: %q, want %q", path, got, want)
		}
	}

	resp, err := a.ask(clientOf(t, w.ca, asGateway), `{"stream":true,"forever":true}`)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	w.controller.command(&apiv1.Command{Id: "c1", Term: 3, Verb: &apiv1.Command_Drain{Drain: &apiv1.Drain{Deadline: durationpb.New(patience)}}})
	eventually(t, "the ready port closes although a request is still open", func() bool { return !open() })
	a.Drain("soon", time.Millisecond)
	if err := a.wait(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if text, err := os.ReadFile(filepath.Join(output, "engine-0.log")); err != nil || len(text) == 0 {
		t.Errorf("engine log: %d bytes, %v", len(text), err)
	}
}
