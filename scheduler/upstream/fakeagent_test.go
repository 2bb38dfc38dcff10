package upstream

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// authority signs certificates whose one URI is the name that a test gives.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &authority{key, cert, pool}
}

func (a *authority) sign(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{{Scheme: "test", Opaque: name}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// clientTLS verifies that the peer is the wanted run, as the identity package does.
func (a *authority) clientTLS(t *testing.T) func(launch, run string) *tls.Config {
	own := a.sign(t, "gateway")
	return func(launch, run string) *tls.Config {
		return &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{own}, InsecureSkipVerify: true,
			VerifyConnection: func(cs tls.ConnectionState) error {
				leaf := cs.PeerCertificates[0]
				if _, err := leaf.Verify(x509.VerifyOptions{Roots: a.pool}); err != nil {
					return err
				}
				if got := leaf.URIs[0].Opaque; got != launch+"/"+run {
					return fmt.Errorf("the peer is %s, wanted %s/%s", got, launch, run)
				}
				return nil
			},
		}
	}
}

// agent is a fake agent that counts connections and requests.
type agent struct {
	*httptest.Server
	conns, requests atomic.Int32
}

func newAgent(t *testing.T, a *authority, name string, h http.HandlerFunc) *agent {
	t.Helper()
	return startAgent(t, a, name, h, func(*http.Server, *tls.Config) {})
}

// startAgent is newAgent with a change before it starts.
func startAgent(t *testing.T, a *authority, name string, h http.HandlerFunc, change func(*http.Server, *tls.Config)) *agent {
	t.Helper()
	g := &agent{}
	g.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.requests.Add(1)
		h(w, r)
	}))
	g.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			g.conns.Add(1)
		}
	}
	g.Config.ErrorLog = nil
	if a == nil {
		g.Start()
	} else {
		g.TLS = &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{a.sign(t, name)}, ClientCAs: a.pool,
			ClientAuth: tls.RequireAndVerifyClientCert,
		}
		change(g.Config, g.TLS)
		g.StartTLS()
	}
	t.Cleanup(g.Close)
	return g
}

func (g *agent) target(launch, run string) Target {
	return Target{Launch: launch, Run: run, Epoch: 7, Address: g.Listener.Addr().String()}
}

func newClient(t *testing.T, opts Options) *Client {
	c := New(opts)
	t.Cleanup(c.Close)
	return c
}
