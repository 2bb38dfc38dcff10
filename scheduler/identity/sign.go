package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"
)

const (
	// skew is how far the clocks of two hosts may differ, and how far a clock may be set back, before a fresh certificate is
	// refused. A machine that takes local time for UTC until it has asked for the time is up to 14 hours ahead.
	skew   = 24 * time.Hour
	maxCSR = 16 << 10
)

// SignCSR answers a certificate request with a certificate for id. What the request says of names and usages is
// ignored; only its key counts, and its signature proves that the caller holds it. Keys other than ECDSA P-256 and
// Ed25519 are refused. hosts are DNS names and IP addresses for clients that know a server by host (browsers, curl);
// processes of ours check the ID instead.
func (ca *CA) SignCSR(csrDER []byte, id ID, ttl time.Duration, now time.Time, hosts ...string) (leafPEM []byte, err error) {
	if len(csrDER) > maxCSR {
		return nil, fmt.Errorf("certificate request: longer than %d bytes", maxCSR)
	}
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	if err := checkKey(csr.PublicKey); err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: the caller does not hold its key: %w", err)
	}
	return ca.sign(csr.PublicKey, id, ttl, now, hosts)
}

// Issue makes a new key and a certificate for it, for processes that hold the authority themselves. hosts as in
// SignCSR.
func (ca *CA) Issue(id ID, ttl time.Duration, now time.Time, hosts ...string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := ca.sign(key.Public(), id, ttl, now, hosts)
	if err != nil {
		return tls.Certificate{}, err
	}
	return KeyPair(leaf, key)
}

func (ca *CA) sign(key crypto.PublicKey, id ID, ttl time.Duration, now time.Time, hosts []string) ([]byte, error) {
	if err := id.Validate(); err != nil {
		return nil, err
	}
	if ttl <= 0 {
		return nil, fmt.Errorf("certificate for %s: lifetime %s is not positive", id, ttl)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: "penstock " + string(id.Role)},
		URIs:         []*url.URL{id.uri(ca.installation)},
		NotBefore:    now.Add(-skew),
		NotAfter:     now.Add(ttl),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key, ca.key)
	if err != nil {
		return nil, fmt.Errorf("certificate for %s: %w", id, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func checkKey(key crypto.PublicKey) error {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return nil
		}
	}
	return errors.New("its key is neither ECDSA P-256 nor Ed25519")
}

// NewCSR makes a key (ECDSA P-256) and a certificate request for it. The key never leaves the process.
func NewCSR() (csrDER []byte, key crypto.Signer, err error) {
	key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	csrDER, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	return csrDER, key, err
}

// KeyPair joins the answer to a request with the request's key, and fails where they do not belong together.
func KeyPair(leafPEM []byte, key crypto.Signer) (tls.Certificate, error) {
	block, _ := pem.Decode(leafPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return tls.Certificate{}, errors.New("certificate: not a PEM block CERTIFICATE")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate: %w", err)
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(leaf.PublicKey) {
		return tls.Certificate{}, errors.New("certificate: it was made for another key")
	}
	return tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key, Leaf: leaf}, nil
}
