package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"path/filepath"
	"time"

	"github.com/penstock/penstock/scheduler/statefile"
)

const (
	authorityFile = "authority.pem" // key and certificate in one file, so that they are made in one step
	publicFile    = "ca.pem"        // the certificate alone, for clients such as curl
	caLifetime    = 10 * 365 * 24 * time.Hour
	maxPEM        = 64 << 10
)

// CA is the certificate authority of one installation. It is immutable and safe for concurrent use.
type CA struct {
	key          crypto.Signer
	cert         *x509.Certificate
	pem          []byte
	installation string
	file         string
}

// OpenCA loads the authority in a folder and makes one (ECDSA P-256, 10 years) at the first call. The folder is made or
// checked as by SecureDir. Several processes may call it at once on one folder: they get the same authority.
func OpenCA(dir string) (*CA, error) {
	if err := SecureDir(dir); err != nil {
		return nil, err
	}
	name := filepath.Join(dir, authorityFile)
	data, err := statefile.ReadPrivate(name, maxPEM)
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = makeAuthority(name, time.Now()); err != nil {
			return nil, fmt.Errorf("make the certificate authority: %w", err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("open the certificate authority: %w", err)
	}
	ca, err := parseAuthority(data)
	if err != nil {
		return nil, fmt.Errorf("certificate authority %s: %w", name, err)
	}
	ca.file = filepath.Join(dir, publicFile)
	return ca, ca.writePublic()
}

// writePublic keeps the public copy equal to the authority's own certificate.
func (ca *CA) writePublic() error {
	if old, err := (statefile.OS{}).Read(ca.file, maxPEM); err == nil && bytes.Equal(old, ca.pem) {
		return nil
	}
	return statefile.Write(statefile.OS{}, ca.file, ca.pem)
}

// PEM returns the authority's certificate. The caller must not change it.
func (ca *CA) PEM() []byte { return ca.pem }

// File is the path of a file with PEM, for programs that want a path.
func (ca *CA) File() string { return ca.file }

// Pool returns a new pool with the authority's certificate alone.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// Installation is the random ID of this installation: 32 hexadecimal digits.
func (ca *CA) Installation() string { return ca.installation }

// Secret is a secret of the installation for one purpose: whoever knows those of other purposes, or the public certificate,
// cannot tell it.
func (ca *CA) Secret(purpose string) ([32]byte, error) {
	key, err := x509.MarshalPKCS8PrivateKey(ca.key)
	if err != nil {
		return [32]byte{}, fmt.Errorf("derive the secret of %s: %w", purpose, err)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(purpose))
	return [32]byte(mac.Sum(nil)), nil
}

// PoolFromPEM returns a pool with the one certificate of an installation's authority.
func PoolFromPEM(caPEM []byte) (*x509.CertPool, error) {
	block, rest := pem.Decode(caPEM)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("CA certificate: not one PEM block CERTIFICATE")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("CA certificate: %w", err)
	}
	if !cert.IsCA {
		return nil, errors.New("CA certificate: it is no authority's")
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return pool, nil
}

// makeAuthority creates the file and returns its content, or that of another process that was faster.
func makeAuthority(name string, now time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	installation := hex.EncodeToString(id)
	tmpl := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "Penstock " + installation},
		URIs:                  []*url.URL{{Scheme: scheme, Host: installation}},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(caLifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	data := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	err = statefile.WriteNew(statefile.OS{}, name, data)
	if errors.Is(err, fs.ErrExist) {
		return statefile.ReadPrivate(name, maxPEM)
	}
	return data, err
}

func parseAuthority(data []byte) (*CA, error) {
	keyBlock, rest := pem.Decode(data)
	certBlock, rest := pem.Decode(rest)
	if keyBlock == nil || certBlock == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("damaged: it must hold one PRIVATE KEY and one CERTIFICATE; restore it from a backup, or remove it and start all jobs anew")
	}
	key, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("its key: %w", err)
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("its certificate: %w", err)
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok || !signer.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("its key and its certificate do not belong together")
	}
	if len(cert.URIs) != 1 || cert.URIs[0].Scheme != scheme || !validInstallation(cert.URIs[0].Host) {
		return nil, errors.New("its certificate names no installation")
	}
	return &CA{key: signer, cert: cert, pem: pem.EncodeToMemory(certBlock), installation: cert.URIs[0].Host}, nil
}

// serial is a random certificate number of 127 bits.
func serial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	b[0] &= 0x7f
	b[15] |= 1
	return new(big.Int).SetBytes(b)
}
