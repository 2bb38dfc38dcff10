package server

import (
	"context"
	"testing"
	"time"

	"connectrpc.com/connect"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/identity"
)

// TestEnroll: a token that the owner asked for becomes a gateway's certificate, for that name only.
func TestEnroll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := apiv1.NewEnrollServiceClient(w.client(t, nil), w.url)
	token, err := w.control.GatewayToken(t.Context(), &apiv1.GatewayTokenRequest{Name: "gw-1"})
	if err != nil {
		t.Fatal(err)
	}
	if token.Controller != w.url || string(token.CaPem) != string(w.ca.PEM()) {
		t.Errorf("answer: %v", token)
	}
	csr, key, err := identity.NewCSR()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := api.Enroll(t.Context(), &apiv1.EnrollRequest{Token: token.Token, Name: "gw-1", CsrDer: csr})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := identity.KeyPair(resp.CertificatePem, key)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := identity.FromCert(cert.Leaf); err != nil || id != (identity.ID{Role: identity.Gateway, Name: "gw-1"}) {
		t.Errorf("certificate of %v, %v", id, err)
	}
	for name, req := range map[string]*apiv1.EnrollRequest{
		"another name":       {Token: token.Token, Name: "gw-2", CsrDer: csr},
		"no token":           {Name: "gw-1", CsrDer: csr},
		"an agent's token":   {Token: w.tokens.Mint("gw-1", time.Now().Add(time.Hour)), Name: "gw-1", CsrDer: csr},
		"a token that ended": {Token: w.tokens.MintGateway("gw-1", time.Now().Add(-time.Second)), Name: "gw-1", CsrDer: csr},
	} {
		if _, err := api.Enroll(t.Context(), req); connect.CodeOf(err) != connect.CodeUnauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = api.Enroll(t.Context(), &apiv1.EnrollRequest{Token: token.Token, Name: "gw-1", CsrDer: []byte("x")})
	wantCode(t, err, connect.CodeInvalidArgument)
	_, err = w.control.GatewayToken(t.Context(), &apiv1.GatewayTokenRequest{Name: "../gw"})
	wantCode(t, err, connect.CodeInvalidArgument)

	gateway := apiv1.NewGatewayServiceClient(w.client(t, &cert), w.url)
	again, err := gateway.Renew(t.Context(), &apiv1.RenewRequest{CsrDer: csr})
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = identity.KeyPair(again.CertificatePem, key); err != nil {
		t.Fatal(err)
	}
	if id, err := identity.FromCert(cert.Leaf); err != nil || id.Name != "gw-1" {
		t.Errorf("renewed as %v, %v", id, err)
	}
}

func (w *world) gateway(t *testing.T, name string) apiv1.GatewayServiceClient {
	return apiv1.NewGatewayServiceClient(w.as(t, identity.ID{Role: identity.Gateway, Name: name}), w.url)
}

// TestWatch: a gateway gets the whole view first, stands in the status for as long as it watches and an hour after, and
// hears when the controller shuts down.
func TestWatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first, err := w.gateway(t, "gw-2").Watch(ctx, &apiv1.WatchRequest{Gateway: "controller", Url: "https://gw:1/v1"})
	if err != nil {
		t.Fatal(err)
	}
	if !first.Receive() || !first.Msg().Full || first.Msg().Term != w.ledger.Term() {
		t.Fatalf("first message %v, %v", first.Msg(), first.Err())
	}
	second, err := w.gateway(t, "gw-1").Watch(t.Context(), &apiv1.WatchRequest{Gateway: "gw-1"})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if !second.Receive() {
		t.Fatal(second.Err())
	}
	st, err := w.control.Status(t.Context(), &apiv1.StatusRequest{})
	if err != nil || len(st.Gateways) != 2 || st.Gateways[0].Name != "gw-1" || st.Gateways[1].Name != "gw-2" || st.Gateways[1].Url != "https://gw:1/v1" {
		t.Errorf("status names %v, %v", st.GetGateways(), err)
	}
	cancel()
	for first.Receive() {
	}
	first.Close()
	until(t, "gw-2 is seen to go", func() bool {
		at := time.Now()
		list := w.gateways.list(at)
		return len(list) == 2 && list[0].seenAt.Equal(at) && list[1].seenAt.Before(at)
	})
	if n := len(w.gateways.list(time.Now().Add(2 * time.Hour))); n != 1 {
		t.Errorf("%d gateways two hours later", n)
	}
	w.Close()
	for second.Receive() {
	}
	wantCode(t, second.Err(), connect.CodeUnavailable)
}

// TestRecord: finished requests can be explained, once each, and stand under the name that the gateway has proved.
func TestRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 2 {
		_, err := w.gateway(t, "gw-1").Record(t.Context(), &apiv1.RecordRequest{Gateway: "x", Records: []*apiv1.RequestRecord{
			{Id: "req-aa", Gateway: "another", Model: "tiny"}, {Id: "req-ab"}, {Id: "req-b"},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	why := func(id string) (*apiv1.RequestRecord, error) {
		resp, err := w.control.Why(t.Context(), &apiv1.WhyRequest{Id: id})
		return resp.GetRecord(), err
	}
	if rec, err := why("req-aa"); err != nil || rec.Gateway != "gw-1" || rec.Model != "tiny" {
		t.Errorf("got %v, %v", rec, err)
	}
	if rec, err := why("req-b"); err != nil || rec.Id != "req-b" {
		t.Errorf("by its beginning: %v, %v", rec, err)
	}
	if rec, err := why(""); err != nil || rec.Id != "req-b" {
		t.Errorf("the latest: %v, %v", rec, err)
	}
	_, err := why("req-a")
	wantCode(t, err, connect.CodeInvalidArgument)
	key, err := w.control.CreateKey(t.Context(), &apiv1.CreateKeyRequest{Name: "me"})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now().Truncate(time.Second)
	if _, err := w.gateway(t, "gw-1").Record(t.Context(), &apiv1.RecordRequest{Records: []*apiv1.RequestRecord{{Id: "req-b", KeyId: key.Key.Id, At: timestamppb.New(at)}}}); err != nil {
		t.Fatal(err)
	}
	if list, err := w.control.ListKeys(t.Context(), &apiv1.ListKeysRequest{}); err != nil || !list.Keys[0].LastUsedAt.AsTime().Equal(at) {
		t.Errorf("keys: %v, %v; want one used at %s", list, err, at)
	}
	_, err = why("nothing")
	wantCode(t, err, connect.CodeNotFound)
	if n := len(lines(t, w.dir+"/state/usage")); n != 3 {
		t.Errorf("%d requests have a usage line", n)
	}
}

// TestKeptRecords: the oldest requests are forgotten first, and the latest is found.
func TestKeptRecords(t *testing.T) {
	t.Parallel()
	r := newRecords(t.TempDir())
	if err := r.add(finished(0, keptRecords+3, yesterday)); err != nil {
		t.Fatal(err)
	}
	for id, known := range map[string]bool{"req-2": false, "req-3": true, "req-10002": true} {
		if r.byID[id] != nil != known {
			t.Errorf("%s: kept %v", id, !known)
		}
	}
	if last, err := r.find(""); err != nil || last.Id != "req-10002" {
		t.Errorf("the latest is %v, %v", last, err)
	}
	if len(r.byID) != keptRecords || len(r.order) != keptRecords {
		t.Errorf("%d are kept", len(r.byID))
	}
}
