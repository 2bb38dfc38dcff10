package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
)

// ErrWrongPeer means that a peer proved to be somebody of this installation, but not the one that was wanted.
var ErrWrongPeer = errors.New("wrong peer")

// ClientConfig is the TLS of a process of ours that dials another one: TLS 1.3, the server must be of this installation
// (pool) and satisfy want (nil: anyone of ours). own gives the current certificate at each handshake; nil, or an
// answer of nil, shows none. The caller sets NextProtos.
//
// InsecureSkipVerify is set because Go's own check also wants a host name in the certificate. Nodes are known by
// launch, run and rank, not by names that a cluster gives and takes back; so VerifyConnection makes the whole check
// itself: the chain up to pool, the time, the usage, and then the ID. It runs for every connection.
func ClientConfig(own func() *tls.Certificate, pool *x509.CertPool, want func(ID) error) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // see above
		RootCAs:            pool,
		VerifyConnection: func(state tls.ConnectionState) error {
			return verifyPeer(state, pool, x509.ExtKeyUsageServerAuth, want)
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if own != nil {
				if cert := own(); cert != nil {
					return cert, nil
				}
			}
			return &tls.Certificate{}, nil // an empty one, never nil: none is shown
		},
	}
}

// ServerConfig is the TLS of a process of ours that others dial: TLS 1.3, clients show a certificate of this
// installation (pool), or none where requireClient is false (Join and Enroll have none yet). Which roles may do what is
// the handler's to ask: FromState and Authorize. own gives the current certificate at each handshake. The caller sets
// NextProtos.
//
// There are no session tickets: a certificate that has ended, or an agent of yesterday, must not come back by a ticket.
func ServerConfig(own func() *tls.Certificate, pool *x509.CertPool, requireClient bool) *tls.Config {
	auth := tls.VerifyClientCertIfGiven
	if requireClient {
		auth = tls.RequireAndVerifyClientCert
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		ClientAuth:             auth,
		ClientCAs:              pool,
		SessionTicketsDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 && !requireClient {
				return nil
			}
			return verifyPeer(state, pool, x509.ExtKeyUsageClientAuth, nil)
		},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if cert := own(); cert != nil {
				return cert, nil
			}
			return nil, errors.New("this process has no certificate yet")
		},
	}
}

func verifyPeer(state tls.ConnectionState, pool *x509.CertPool, usage x509.ExtKeyUsage, want func(ID) error) error {
	if len(state.PeerCertificates) == 0 {
		return fmt.Errorf("%w: no certificate", ErrNoIdentity)
	}
	leaf := state.PeerCertificates[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
		return err
	}
	id, err := FromCert(leaf)
	if err != nil {
		return err
	}
	if want == nil {
		return nil
	}
	return want(id)
}

// WantRole accepts peers of the given roles.
func WantRole(roles ...Role) func(ID) error {
	return func(id ID) error {
		if !slices.Contains(roles, id.Role) {
			return fmt.Errorf("%w: %s, wanted %v", ErrWrongPeer, id, roles)
		}
		return nil
	}
}

// WantRun accepts the agents of one run of one launch. An empty run means: any run of the launch.
func WantRun(launch, run string) func(ID) error {
	return func(id ID) error {
		if id.Role != Agent || id.Launch != launch || run != "" && id.Run != run {
			return fmt.Errorf("%w: %s, wanted launch %s run %s", ErrWrongPeer, id, launch, run)
		}
		return nil
	}
}
