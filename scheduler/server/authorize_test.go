package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/ledger"
)

// call makes any call of the contract with an empty message and returns all that is answered.
func call(ctx context.Context, client *http.Client, url, procedure string, streams bool) (string, error) {
	kind, body := "application/json", []byte("{}")
	if streams { // one enveloped message
		kind, body = "application/connect+json", []byte("\x00\x00\x00\x00\x02{}")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+procedure, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", kind)
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// TestWhoMayCall makes every call of the contract as every role, over the wire, and compares with the table. The server is
// closing, so that streams that are let in end at once.
func TestWhoMayCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Close()
	clients := map[identity.Role]*http.Client{
		identity.Nobody:     w.client(t, nil),
		identity.Agent:      w.as(t, identity.ID{Role: identity.Agent, Launch: "l-1", Run: "r"}),
		identity.Gateway:    w.as(t, identity.ID{Role: identity.Gateway, Name: "gw"}),
		identity.CLI:        w.as(t, identity.ID{Role: identity.CLI, Name: "owner"}),
		identity.Controller: w.as(t, identity.ID{Role: identity.Controller, Name: "controller"}),
	}
	services := apiv1.File_v1_penstock_proto.Services()
	calls := 0
	check := func(role identity.Role, client *http.Client, url, procedure string, streams bool) {
		calls++
		text, err := call(t.Context(), client, url, procedure, streams)
		if err != nil {
			t.Errorf("%s as %q: %v", procedure, role, err)
		}
		refused := strings.Contains(text, identity.ErrNotAllowed.Error()) || strings.Contains(text, "needs a client certificate")
		if refused == identity.Allowed(role, procedure) {
			t.Errorf("%s as %q over %s: %s", procedure, role, url, text)
		}
	}
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			m := methods.Get(j)
			procedure := fmt.Sprintf("/%s/%s", services.Get(i).FullName(), m.Name())
			for role, client := range clients {
				check(role, client, w.url, procedure, m.IsStreamingClient() || m.IsStreamingServer())
			}
			check(identity.CLI, w.owner, "http://control", procedure, m.IsStreamingClient() || m.IsStreamingServer())
		}
	}
	for role, client := range clients {
		check(role, client, w.url, "/penstock.v1.ControlService/NoSuchCall", false)
	}
	if want := 6 * 20; calls < want {
		t.Errorf("%d calls were tried, at least %d exist", calls, want)
	}
}

// TestOtherInstallations: a certificate of another installation opens nothing, not even what nobody may call.
func TestOtherInstallations(t *testing.T) {
	t.Parallel()
	w, other := newWorld(t), newWorld(t)
	cert := other.as(t, identity.ID{Role: identity.CLI, Name: "owner"})
	tr := cert.Transport.(*http.Transport).Clone()
	tr.TLSClientConfig.VerifyConnection = nil // it does not care whom it talks to
	t.Cleanup(tr.CloseIdleConnections)
	for _, p := range []string{apiv1.ControlServiceStatusProcedure, apiv1.AgentServiceJoinProcedure} {
		if text, err := call(t.Context(), &http.Client{Transport: tr}, w.url, p, false); err == nil {
			t.Errorf("%s: %s", p, text)
		}
	}
}

// TestAnswers: each error of the inner parts has the code that callers act on.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want connect.Code
	}{
		{errNotFound, connect.CodeNotFound},
		{errNotNow, connect.CodeFailedPrecondition},
		{ledger.ErrNotFound, connect.CodeNotFound},
		{errInvalid, connect.CodeInvalidArgument},
		{ledger.ErrInvalid, connect.CodeInvalidArgument},
		{ledger.ErrDamaged, connect.CodeFailedPrecondition},
		{ledger.ErrTermLost, connect.CodeUnavailable},
		{ledger.ErrNoTerm, connect.CodeUnavailable},
		{&ledger.HeldError{}, connect.CodeUnavailable},
		{cluster.ErrUnknown, connect.CodeUnavailable},
		{context.Canceled, connect.CodeCanceled},
		{context.DeadlineExceeded, connect.CodeDeadlineExceeded},
		{connect.NewError(connect.CodeAlreadyExists, errors.New("x")), connect.CodeAlreadyExists},
		{errors.New("a full disk"), connect.CodeInternal},
	} {
		if got := connect.CodeOf(answer(fmt.Errorf("do something: %w", c.err))); got != c.want {
			t.Errorf("%v: %s, want %s", c.err, got, c.want)
		}
	}
	if answer(nil) != nil {
		t.Error("no error became one")
	}
}
