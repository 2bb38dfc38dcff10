package identity

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func mustIssue(t testing.TB, ca *CA, id ID) *tls.Certificate {
	t.Helper()
	cert, err := ca.Issue(id, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &cert
}

func fixed(cert *tls.Certificate) func() *tls.Certificate {
	return func() *tls.Certificate { return cert }
}

// meet lets a client and a server shake hands and say a byte to each other. It returns what each of them got.
func meet(t testing.TB, client, server *tls.Config) (seen tls.ConnectionState, clientErr, serverErr error) {
	t.Helper()
	a, b := connected(t)
	done := make(chan error, 1)
	srv := tls.Server(b, server)
	go func() {
		defer b.Close()
		done <- exchange(srv, false)
	}()
	clientErr = exchange(tls.Client(a, client), true)
	_ = a.Close()
	serverErr = <-done
	return srv.ConnectionState(), clientErr, serverErr
}

// connected is a TCP connection with itself. A net.Pipe would not do: it has no room for an alert that nobody reads.
func connected(t testing.TB) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if a, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{a, b} {
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		t.Cleanup(func() { _ = c.Close() })
	}
	return a, b
}

func exchange(conn *tls.Conn, first bool) error {
	if err := conn.HandshakeContext(context.Background()); err != nil {
		return err
	}
	buf := make([]byte, 1)
	if first {
		if _, err := conn.Write(buf); err != nil {
			return err
		}
	}
	if _, err := conn.Read(buf); err != nil {
		return err
	}
	if !first {
		if _, err := conn.Write(buf); err != nil {
			return err
		}
	}
	return nil
}

func TestHandshake(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	controller, agent := mustIssue(t, ca, controllerID), mustIssue(t, ca, agentID)
	for _, c := range []struct {
		name   string
		client *tls.Config
		server *tls.Config
		peer   ID // as the server sees it
	}{
		{"agent to controller", ClientConfig(fixed(agent), ca.Pool(), WantRole(Controller)), ServerConfig(fixed(controller), ca.Pool(), false), agentID},
		{"join without a certificate", ClientConfig(nil, ca.Pool(), WantRole(Controller)), ServerConfig(fixed(controller), ca.Pool(), false), ID{}},
		{"controller to agent", ClientConfig(fixed(controller), ca.Pool(), WantRun(agentID.Launch, agentID.Run)), ServerConfig(fixed(agent), ca.Pool(), true), controllerID},
		{"any run of a launch", ClientConfig(fixed(controller), ca.Pool(), WantRun(agentID.Launch, "")), ServerConfig(fixed(agent), ca.Pool(), true), controllerID},
		{"anyone of ours", ClientConfig(fixed(controller), ca.Pool(), nil), ServerConfig(fixed(agent), ca.Pool(), true), controllerID},
	} {
		seen, clientErr, serverErr := meet(t, c.client, c.server)
		if clientErr != nil || serverErr != nil {
			t.Errorf("%s: client %v, server %v", c.name, clientErr, serverErr)
			continue
		}
		id, err := FromState(&seen)
		if id != c.peer || (err == nil) != (c.peer != ID{}) {
			t.Errorf("%s: the server sees %v, %v", c.name, id, err)
		}
		if seen.Version != tls.VersionTLS13 {
			t.Errorf("%s: TLS version %x", c.name, seen.Version)
		}
	}
}

// forged makes a certificate as an attacker would who has a CA of his own, or a leaf to sign with.
func forged(t testing.TB, parent *tls.Certificate, change func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	change(tmpl)
	signer, signedBy := any(key), tmpl
	chain := [][]byte(nil)
	if parent != nil {
		signer, signedBy, chain = parent.PrivateKey, parent.Leaf, parent.Certificate
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, signedBy, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: append([][]byte{der}, chain...), PrivateKey: key}
}

// authority is the CA itself as a key pair, to forge with what only it could sign.
func authority(ca *CA) *tls.Certificate {
	return &tls.Certificate{PrivateKey: ca.key, Leaf: ca.cert}
}

// TestAttackers tries what somebody on the same network can: each attempt ends in the handshake.
func TestAttackers(t *testing.T) {
	t.Parallel()
	ca, other := newCA(t), newCA(t)
	uri := func(id ID) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.URIs = []*url.URL{id.uri(ca.Installation())} }
	}
	expired, err := ca.Issue(gatewayID, time.Minute, time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	early, err := ca.Issue(gatewayID, time.Hour, time.Now().Add(skew+time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	agent := mustIssue(t, ca, agentID)
	for _, c := range []struct {
		name string
		cert *tls.Certificate // nil = none
		says string
	}{
		{"no certificate", nil, "certificate"},
		{"certificate of another installation", mustIssue(t, other, gatewayID), "certificate"},
		{"signed by itself", forged(t, nil, uri(gatewayID)), "certificate"},
		{"signed by an agent's key", forged(t, agent, uri(gatewayID)), "certificate"},
		{"expired", &expired, "certificate"},
		{"not valid yet", &early, "certificate"},
		{"of ours, without a name", forged(t, authority(ca), func(*x509.Certificate) {}), "bad certificate"},
		{"of ours, with two names", forged(t, authority(ca), func(c *x509.Certificate) {
			c.URIs = []*url.URL{agentID.uri(ca.Installation()), gatewayID.uri(ca.Installation())}
		}), "bad certificate"},
		{"another's certificate with an own key", &tls.Certificate{Certificate: agent.Certificate, PrivateKey: forged(t, nil, uri(gatewayID)).PrivateKey}, ""},
	} {
		client := ClientConfig(fixed(c.cert), ca.Pool(), nil)
		if c.cert == nil {
			client = ClientConfig(nil, ca.Pool(), nil)
		}
		server := ServerConfig(fixed(agent), ca.Pool(), true)
		_, clientErr, serverErr := meet(t, client, server)
		if clientErr == nil || serverErr == nil {
			t.Errorf("%s, as a client: client %v, server %v", c.name, clientErr, serverErr)
		}
		if c.cert == nil {
			continue
		}
		server = ServerConfig(fixed(c.cert), ca.Pool(), false)
		_, clientErr, _ = meet(t, ClientConfig(nil, ca.Pool(), nil), server)
		if clientErr == nil {
			t.Errorf("%s, as a server: it was believed", c.name)
		}
	}
}

// TestWrongPeers: true certificates of ours, in the wrong place.
func TestWrongPeers(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	otherLaunch, otherRun := agentID, agentID
	otherLaunch.Launch, otherRun.Run = "tiny-mixed-0-xyz", "run2"
	for _, c := range []struct {
		name   string
		server ID
		want   func(ID) error
	}{
		{"an agent poses as the controller", agentID, WantRole(Controller)},
		{"a gateway poses as the controller", gatewayID, WantRole(Controller)},
		{"an agent of another launch", otherLaunch, WantRun(agentID.Launch, agentID.Run)},
		{"an older run of the launch", otherRun, WantRun(agentID.Launch, agentID.Run)},
		{"a gateway poses as an agent", gatewayID, WantRun(agentID.Launch, "")},
	} {
		_, clientErr, serverErr := meet(t, ClientConfig(nil, ca.Pool(), c.want), ServerConfig(fixed(mustIssue(t, ca, c.server)), ca.Pool(), false))
		if !errors.Is(clientErr, ErrWrongPeer) || serverErr == nil {
			t.Errorf("%s: client %v, server %v", c.name, clientErr, serverErr)
		}
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	old := ClientConfig(nil, ca.Pool(), nil)
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	_, clientErr, serverErr := meet(t, old, ServerConfig(fixed(mustIssue(t, ca, controllerID)), ca.Pool(), false))
	if clientErr == nil || serverErr == nil || !strings.Contains(clientErr.Error(), "protocol version") {
		t.Errorf("client %v, server %v", clientErr, serverErr)
	}
}

func TestServerWithoutCertificate(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	_, _, serverErr := meet(t, ClientConfig(nil, ca.Pool(), nil), ServerConfig(fixed(nil), ca.Pool(), false))
	if serverErr == nil || !strings.Contains(serverErr.Error(), "no certificate yet") {
		t.Errorf("server %v", serverErr)
	}
}

// TestRotation: both ends change certificates between connections, and no old one comes back by a session ticket.
func TestRotation(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	server, client := NewHolder(*mustIssue(t, ca, controllerID)), NewHolder(*mustIssue(t, ca, agentID))
	sc := ServerConfig(server.Certificate, ca.Pool(), true)
	cc := ClientConfig(client.Certificate, ca.Pool(), WantRole(Controller))
	cc.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	cc.ServerName = "login1" // the cache's key
	var last []byte
	for range 3 {
		seen, clientErr, serverErr := meet(t, cc, sc)
		if clientErr != nil || serverErr != nil {
			t.Fatal(clientErr, serverErr)
		}
		if now := seen.PeerCertificates[0].Raw; seen.DidResume || bytes.Equal(now, last) {
			t.Error("the server saw an old certificate")
		} else {
			last = now
		}
		for _, h := range []*Holder{server, client} {
			if err := h.Renew(t.Context(), ca.Pool(), signer(ca, h)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// signer answers requests as the controller does: with the name of the caller's own certificate.
func signer(ca *CA, h *Holder) func(context.Context, []byte) ([]byte, error) {
	return func(_ context.Context, csr []byte) ([]byte, error) {
		id, err := FromCert(h.Certificate().Leaf)
		if err != nil {
			return nil, err
		}
		return ca.SignCSR(csr, id, time.Hour, time.Now())
	}
}

func TestHolderIsDueAtAThird(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	now := time.Now().Truncate(time.Second)
	cert, err := ca.Issue(agentID, 3*time.Hour, now)
	if err != nil {
		t.Fatal(err)
	}
	h := NewHolder(cert)
	due := now.Add(time.Hour)
	if !h.RenewAt().Equal(due) || h.Due(due.Add(-time.Second)) || !h.Due(due) {
		t.Errorf("due at %s, want %s", h.RenewAt(), due)
	}
}

// TestClockSetBack: a clock that was hours ahead when an installation was made and its certificates were issued is put
// right.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ahead := now.Add(14 * time.Hour)
	data, err := makeAuthority(filepath.Join(t.TempDir(), authorityFile), ahead)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := parseAuthority(data)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(agentID, time.Hour, ahead)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), CurrentTime: now}); err != nil {
		t.Error(err)
	}
	if h := NewHolder(cert); h.Due(now) {
		t.Errorf("renewed at once: due at %s", h.RenewAt())
	}
}

// TestRenewRefuses: whatever comes back that is not a certificate of this key, name and installation leaves the old one
// in place.
func TestRenewRefuses(t *testing.T) {
	t.Parallel()
	ca, other := newCA(t), newCA(t)
	h := NewHolder(*mustIssue(t, ca, agentID))
	old := h.Certificate()
	away := errors.New("controller is away")
	for name, sign := range map[string]func(context.Context, []byte) ([]byte, error){
		"nobody answers":       func(context.Context, []byte) ([]byte, error) { return nil, away },
		"nothing":              func(context.Context, []byte) ([]byte, error) { return nil, nil },
		"another installation": signer(other, h),
		"another name": func(_ context.Context, csr []byte) ([]byte, error) {
			return ca.SignCSR(csr, controllerID, time.Hour, time.Now())
		},
		"another key": func(context.Context, []byte) ([]byte, error) {
			return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: mustIssue(t, ca, agentID).Certificate[0]}), nil
		},
		"one that has ended": func(_ context.Context, csr []byte) ([]byte, error) {
			return ca.SignCSR(csr, agentID, time.Minute, time.Now().Add(-time.Hour))
		},
	} {
		if err := h.Renew(t.Context(), ca.Pool(), sign); err == nil || h.Certificate() != old {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := h.Renew(t.Context(), ca.Pool(), func(context.Context, []byte) ([]byte, error) { return nil, away }); !errors.Is(err, away) {
		t.Errorf("the reason is lost: %v", err)
	}
}
