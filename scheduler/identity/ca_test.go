package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/scheduler/statefile"
)

var (
	agentID      = ID{Role: Agent, Launch: "qwen-mixed-0-abc", Run: "run1", Rank: 1}
	gatewayID    = ID{Role: Gateway, Name: "gw1"}
	controllerID = ID{Role: Controller, Name: "login1"}
)

func newCA(t testing.TB) *CA {
	t.Helper()
	ca, err := OpenCA(filepath.Join(t.TempDir(), "ca"))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func TestOpenCA(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "ca")
	var wg sync.WaitGroup
	cas := make([]*CA, 8)
	for i := range cas { // several processes at the first start
		wg.Go(func() {
			ca, err := OpenCA(dir)
			if err != nil {
				t.Error(err)
				return
			}
			cas[i] = ca
		})
	}
	wg.Wait()
	for _, ca := range cas {
		if ca == nil || !bytes.Equal(ca.PEM(), cas[0].PEM()) || ca.Installation() != cas[0].Installation() {
			t.Fatal("two authorities in one folder")
		}
	}
	again, err := OpenCA(dir)
	if err != nil || !bytes.Equal(again.PEM(), cas[0].PEM()) {
		t.Errorf("opened again: %v", err)
	}
	public, err := os.ReadFile(again.File())
	if err != nil || !bytes.Equal(public, again.PEM()) || bytes.Contains(public, []byte("PRIVATE")) {
		t.Errorf("public file: %v", err)
	}
	if _, err := statefile.ReadPrivate(filepath.Join(dir, authorityFile), maxPEM); err != nil {
		t.Error(err)
	}
	cert := again.cert
	if !cert.IsCA || cert.PublicKeyAlgorithm != x509.ECDSA || cert.NotAfter.Before(time.Now().Add(caLifetime-time.Hour)) {
		t.Errorf("certificate %+v", cert)
	}
}

func TestOpenCARefuses(t *testing.T) {
	t.Parallel()
	other := newCA(t)
	for _, c := range []struct {
		name  string
		spoil func(file string) error
		says  string
	}{
		{"readable by all", func(f string) error { return os.Chmod(f, 0o644) }, "chmod 600"},
		{"folder open", func(f string) error { return os.Chmod(filepath.Dir(f), 0o755) }, "chmod 700"},
		{"empty", func(f string) error { return os.WriteFile(f, nil, 0o600) }, "damaged"},
		{"cut off", func(f string) error { return os.Truncate(f, 200) }, "damaged"},
		{"key of another", func(f string) error {
			mine, err := os.ReadFile(f)
			if err != nil {
				return err
			}
			block, _ := pem.Decode(mine)
			return os.WriteFile(f, append(pem.EncodeToMemory(block), other.PEM()...), 0o600)
		}, "do not belong together"},
	} {
		dir := filepath.Join(t.TempDir(), "ca")
		if _, err := OpenCA(dir); err != nil {
			t.Fatal(err)
		}
		if err := c.spoil(filepath.Join(dir, authorityFile)); err != nil {
			t.Fatal(err)
		}
		_, err := OpenCA(dir)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, wanted it to say %q", c.name, err, c.says)
		}
	}
}

// TestCSRNamesAreIgnored: a request may claim anything; the certificate says what the controller says.
func TestCSRNamesAreIgnored(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: "penstock controller"},
		DNSNames:    []string{"login1"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		URIs:        []*url.URL{controllerID.uri(ca.Installation())},
		ExtraExtensions: []pkix.Extension{{ // CA: true
			Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 0x03, 0x01, 0x01, 0xff},
		}},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf := parseLeaf(t, mustSign(t, ca, csr, agentID))
	id, err := FromCert(leaf)
	if err != nil || id != agentID || len(leaf.URIs) != 1 {
		t.Errorf("it names %v, %v", id, err)
	}
	if leaf.IsCA || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) > 0 || leaf.KeyUsage&x509.KeyUsageCertSign != 0 {
		t.Errorf("it may more than it should: %+v", leaf)
	}
}

func mustSign(t testing.TB, ca *CA, csr []byte, id ID) []byte {
	t.Helper()
	leaf, err := ca.SignCSR(csr, id, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func parseLeaf(t testing.TB, leafPEM []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(leafPEM)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func TestSignCSRRefuses(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	good, _, err := NewCSR()
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	otherPoint, err := p256.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	for _, c := range []struct {
		name string
		csr  []byte
		id   ID
		ttl  time.Duration
		says string
	}{
		{"RSA", csrOf(t, rsaKey), agentID, time.Hour, "neither ECDSA P-256 nor Ed25519"},
		{"P-384", csrOf(t, p384), agentID, time.Hour, "neither ECDSA P-256 nor Ed25519"},
		{"signature spoiled", flipped, agentID, time.Hour, ""},
		{"key of somebody else", bytes.Replace(good, publicBytes(t, good), otherPoint, 1), agentID, time.Hour, "does not hold its key"},
		{"cut off", good[:len(good)-3], agentID, time.Hour, "certificate request"},
		{"empty", nil, agentID, time.Hour, "certificate request"},
		{"long", make([]byte, maxCSR+1), agentID, time.Hour, "longer than"},
		{"no role", good, ID{Name: "x"}, time.Hour, "unknown role"},
		{"launch with a slash", good, ID{Role: Agent, Launch: "a/b", Run: "r"}, time.Hour, "an agent has"},
		{"no lifetime", good, agentID, 0, "not positive"},
	} {
		leaf, err := ca.SignCSR(c.csr, c.id, c.ttl, time.Now())
		if err == nil || !strings.Contains(err.Error(), c.says) || leaf != nil {
			t.Errorf("%s: got %v, wanted it to say %q", c.name, err, c.says)
		}
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	mustSign(t, ca, csrOf(t, edKey), agentID)
}

func csrOf(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

// publicBytes is the point of a request's key, as it stands in it.
func publicBytes(t *testing.T, csrDER []byte) []byte {
	t.Helper()
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := csr.PublicKey.(*ecdsa.PublicKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

func TestHostsAreForOutsiders(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	cert, err := ca.Issue(gatewayID, time.Hour, time.Now(), "login1.cluster", "10.0.0.7", "::1")
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"login1.cluster", "10.0.0.7", "::1"} {
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), DNSName: host}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), DNSName: "login2.cluster"}); err == nil {
		t.Error("any host fits")
	}
}

func TestKeyPairRefuses(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	csr, key, err := NewCSR()
	if err != nil {
		t.Fatal(err)
	}
	_, otherKey, err := NewCSR()
	if err != nil {
		t.Fatal(err)
	}
	leaf := mustSign(t, ca, csr, agentID)
	if _, err := KeyPair(leaf, key); err != nil {
		t.Error(err)
	}
	if _, err := KeyPair(leaf, otherKey); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("another key: %v", err)
	}
	for _, bad := range [][]byte{nil, []byte("x"), leaf[:len(leaf)/2], bytes.Replace(leaf, []byte("CERTIFICATE"), []byte("PRIVATE KEY"), 2)} {
		if _, err := KeyPair(bad, key); err == nil {
			t.Errorf("%.30q was taken", bad)
		}
	}
}
