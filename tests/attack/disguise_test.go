package attack

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/penstock/penstock/scheduler/identity"
)

var timeless = context.Background() // tricks end with their process

const patience = 5 * time.Second

// A disguise is a way to come to a TLS port of the victim's.
type disguise struct {
	name string
	cert *tls.Certificate // nil = none
	max  uint16           // TLS version; 0 = the newest
}

func (d disguise) config() *tls.Config {
	return &tls.Config{
		InsecureSkipVerify: true, MaxVersion: d.max,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if d.cert == nil {
				return &tls.Certificate{}, nil
			}
			return d.cert, nil // whatever authorities the server asks for
		},
	}
}

// disguises makes all that the attacker can think of: from nothing, from its own installation, and from what the port
// shows to everybody in its own certificate.
func disguises(address, rivalState, launch string) (list []disguise, err error) {
	shown, err := certificateOf(address)
	if err != nil {
		return nil, err
	}
	installation := shown.URIs[0].Host
	own, err := identity.OpenCA(filepath.Join(rivalState, "ca"))
	if err != nil {
		return nil, err
	}
	list = []disguise{{name: "nobody, by TLS 1.2", max: tls.VersionTLS12}}
	add := func(name string, cert *tls.Certificate, cerr error) {
		list, err = append(list, disguise{name: name, cert: cert}), errors.Join(err, cerr)
	}
	for name, id := range map[string]identity.ID{
		"a gateway": {Role: identity.Gateway, Name: "mallory"}, "the controller": {Role: identity.Controller, Name: "controller"},
		"the owner": {Role: identity.CLI, Name: "owner"}, "an agent": {Role: identity.Agent, Launch: launch, Run: "run", Rank: 0},
	} {
		cert, cerr := own.Issue(id, time.Hour, time.Now())
		add(name+" of another installation", &cert, cerr)
	}
	authority, err := authorityOf(rivalState)
	if err != nil {
		return nil, err
	}
	gateway := "penstock://" + installation + "/gateway/mallory"
	cert, err := forge(authority, gateway)
	add("a gateway of this installation, by another authority", cert, err)
	same, err := forgeAuthority(installation)
	if err != nil {
		return nil, err
	}
	cert, err = forge(same, gateway)
	add("a gateway of this installation, by an authority of the same name", cert, err)
	cert, err = forge(same, "penstock://"+installation+"/controller/controller")
	add("the controller of this installation, by an authority of the same name", cert, err)
	cert, err = forge(nil, gateway)
	add("a gateway of this installation, signed by itself", cert, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	add("the port's own certificate with another key", &tls.Certificate{Certificate: [][]byte{shown.Raw}, PrivateKey: key}, err)
	cert, err = forge(nil, gateway)
	if err == nil {
		cert.Certificate = append(cert.Certificate, shown.Raw) // as if the port had signed it
	}
	add("a certificate in the chain of the port's own", cert, err)
	return list, err
}

// certificateOf is what a port shows to everybody.
func certificateOf(address string) (*x509.Certificate, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", address, disguise{}.config())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0], nil
}

// authorityOf reads an authority's certificate and key, of an installation of one's own.
func authorityOf(state string) (*tls.Certificate, error) {
	name := filepath.Join(state, "ca", "authority.pem")
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(text, text)
	return &pair, err
}

// forgeAuthority makes an authority that has the same name as the installation's.
func forgeAuthority(installation string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Penstock " + installation},
		URIs: []*url.URL{{Scheme: "penstock", Host: installation}}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}

// forge makes a certificate of that name; by nil = signed by itself.
func forge(by *tls.Certificate, name string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	uri, err := url.Parse(name)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), URIs: []*url.URL{uri}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	parent, signer := tmpl, any(key)
	if by != nil {
		parent, signer = by.Leaf, by.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	cert := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	if by != nil {
		cert.Certificate = append(cert.Certificate, by.Certificate...)
	}
	return cert, nil
}

// speak sends a request over TLS and returns the first line of the answer. conf nil = in plain text.
func speak(address string, conf *tls.Config, request string) (string, error) {
	raw, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return "", err
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(patience))
	conn := raw
	if conf != nil {
		conn = tls.Client(raw, conf)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if line != "" {
		return strings.TrimSpace(line), nil
	}
	return "", err
}

// refusedAnswer turns an answer that lets nobody in into an error.
func refusedAnswer(line string, err error, refusals ...string) error {
	if err != nil {
		return err
	}
	for _, r := range refusals {
		if strings.HasPrefix(line, r) {
			return errors.New(r)
		}
	}
	return nil
}

// post is a request as gateways send them.
func post(path, headers, body string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: penstock\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s", path, len(body), headers, body)
}
