// Package identity says who is who inside one installation: its certificate authority, the names in certificates, join
// tokens and the files that carry them, the TLS settings of both ends, and the table of who may call what.
//
// It opens no connection and serves nothing, and it does not know people: their API keys are in package keys. The
// controller's server, agents, gateways and the command line use it.
package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// Role is what a process is inside an installation.
type Role string

// The roles. Nobody is a caller without a certificate.
const (
	Nobody     Role = ""
	Controller Role = "controller"
	Gateway    Role = "gateway"
	Agent      Role = "agent"
	CLI        Role = "cli"
)

// ID names one process. An Agent has Launch, Run and Rank and no Name, all others have a Name only. Parts are 1 to 128
// characters of [A-Za-z0-9._-] and neither "." nor "..".
type ID struct {
	Role   Role
	Name   string
	Launch string
	Run    string
	Rank   int // of the node in the run, from 0
}

// ErrNoIdentity means that a peer showed no certificate, or one that names nobody of ours.
var ErrNoIdentity = errors.New("no identity")

const (
	scheme  = "penstock"
	maxURI  = 1024
	maxPart = 128
	maxRank = 1 << 20
)

// String returns the ID as it stands in logs and, after the installation, in certificates: agent/LAUNCH/RUN/RANK or
// ROLE/NAME.
func (id ID) String() string {
	if id.Role == Agent {
		return strings.Join([]string{string(id.Role), id.Launch, id.Run, strconv.Itoa(id.Rank)}, "/")
	}
	return string(id.Role) + "/" + id.Name
}

// Validate checks that the ID can stand in a certificate.
func (id ID) Validate() error {
	switch id.Role {
	case Agent:
		if id.Name != "" || !validPart(id.Launch) || !validPart(id.Run) || id.Rank < 0 || id.Rank > maxRank {
			return fmt.Errorf("identity %q: an agent has a launch, a run and a rank", id)
		}
	case Controller, Gateway, CLI:
		if !validPart(id.Name) || id.Launch != "" || id.Run != "" || id.Rank != 0 {
			return fmt.Errorf("identity %q: a %s has a name of [A-Za-z0-9._-] and nothing else", id, id.Role)
		}
	default:
		return fmt.Errorf("identity %q: unknown role", id)
	}
	return nil
}

// uri is the one spelling of an ID in a certificate.
func (id ID) uri(installation string) *url.URL {
	return &url.URL{Scheme: scheme, Host: installation, Path: "/" + id.String()}
}

// FromCert reads the ID of a certificate of ours: its one URI. It does not check who signed it.
func FromCert(cert *x509.Certificate) (ID, error) {
	if len(cert.URIs) != 1 {
		return ID{}, fmt.Errorf("%w: certificate with %d URIs instead of one", ErrNoIdentity, len(cert.URIs))
	}
	id, _, err := parseURI(cert.URIs[0].String())
	return id, err
}

// FromState returns the ID of the peer of a TLS connection whose handshake has verified it. ErrNoIdentity: the peer
// showed no certificate.
func FromState(state *tls.ConnectionState) (ID, error) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return ID{}, fmt.Errorf("%w: no client certificate", ErrNoIdentity)
	}
	return FromCert(state.PeerCertificates[0])
}

// parseURI accepts exactly what uri writes.
func parseURI(s string) (id ID, installation string, err error) {
	rest, ok := strings.CutPrefix(s, scheme+"://")
	if !ok || len(s) > maxURI {
		return ID{}, "", fmt.Errorf("%w: URI %.40q is not of ours", ErrNoIdentity, s)
	}
	parts := strings.Split(rest, "/")
	switch {
	case len(parts) == 5 && Role(parts[1]) == Agent:
		rank, err := strconv.Atoi(parts[4])
		if err != nil {
			return ID{}, "", fmt.Errorf("%w: URI %.200q has no rank", ErrNoIdentity, s)
		}
		id = ID{Role: Agent, Launch: parts[2], Run: parts[3], Rank: rank}
	case len(parts) == 3 && Role(parts[1]) != Agent:
		id = ID{Role: Role(parts[1]), Name: parts[2]}
	default:
		return ID{}, "", fmt.Errorf("%w: URI %.200q has the wrong number of parts", ErrNoIdentity, s)
	}
	if err := id.Validate(); err != nil {
		return ID{}, "", fmt.Errorf("%w: URI %.200q: %w", ErrNoIdentity, s, err)
	}
	if !validInstallation(parts[0]) || id.uri(parts[0]).String() != s {
		return ID{}, "", fmt.Errorf("%w: URI %.200q is not in its one spelling", ErrNoIdentity, s)
	}
	return id, parts[0], nil
}

func validPart(s string) bool {
	if s == "" || len(s) > maxPart || s == "." || s == ".." {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return !partRune(r) })
}

func partRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-'
}

// installation IDs are 32 hexadecimal digits.
func validInstallation(s string) bool {
	return len(s) == 32 && strings.Trim(s, "0123456789abcdef") == ""
}
