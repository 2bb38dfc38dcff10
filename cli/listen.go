package cli

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/penstock/penstock/scheduler/accept"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/statefile"
)

// socketName is the control socket's name for a state folder: two folders of one user never meet.
func socketName(state string) string {
	sum := sha256.Sum256([]byte(state))
	return hex.EncodeToString(sum[:6]) + ".sock"
}

// secureRuntimeDir makes or checks the folder for sockets and locks itself, before anything is put below it: by default it
// has a name in /tmp that everybody knows.
func (inv *invocation) secureRuntimeDir() error {
	if err := identity.SecureDir(inv.set.get("runtimeDir")); err != nil {
		return &exitError{code: ExitError, err: err, hint: "it is the runtime folder; choose another one with --runtime-dir or PENSTOCK_RUNTIME_DIR"}
	}
	return nil
}

func closing(c io.Closer) func() error {
	return func() error {
		if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}
}

// reachable is an address that others can dial: a wildcard becomes the host's name.
func reachable(a net.Addr, host string) string {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return a.String()
	}
	if tcp.IP.IsUnspecified() {
		return net.JoinHostPort(host, strconv.Itoa(tcp.Port))
	}
	return tcp.String()
}

func isTLS(url string) bool { return strings.HasPrefix(url, "https://") }

// portFile remembers a gateway's port, so that its URL outlives a restart.
const portFile = "gateway.port"

// ownPortFile is portFile for one more gateway. Empty: it has no name that would outlive a restart either.
func ownPortFile(state, gateway string) string {
	if gateway == "" {
		return ""
	}
	return filepath.Join(state, "gateway-"+gateway+".port")
}

// clientsPort is where a gateway listens for clients.
type clientsPort struct {
	boundedListener
	url string // ends in /v1
	// lost is the address of last time, which another process has taken; empty = none is.
	lost string
}

// warning says what it means that the port of last time is lost: whoever has it now is asked by the clients that do not
// know yet, and on loopback there is nothing that tells him from the gateway.
func (p clientsPort) warning() string {
	if p.lost == "" {
		return ""
	}
	return fmt.Sprintf("another process has taken %s, where the gateway was before; if it listens there, clients that still ask there give it their keys: "+
		"tell them that the gateway is at %s now, find out whose process it is (ss -ltnp), and revoke keys that it may have got", p.lost, p.url)
}

// listenForClients opens the gateway's listener. Port 0 means: the port of last time, which file remembers, if it is free,
// else a new one. On loopback it is plain HTTP unless TLS is asked for, since keys guard it; everywhere else it is TLS, with
// a certificate of our CA.
func (inv *invocation) listenForClients(file string, ca *identity.CA, hostname string, refused *accept.Refusals) (p clientsPort, err error) {
	host, port, err := inv.clientsAddress()
	if err != nil {
		return p, err
	}
	l, lost, err := listenAgain(host, port, file)
	if err != nil {
		return p, fmt.Errorf("listen for clients on %s: %w; choose another address with --gateway-listen", net.JoinHostPort(host, port), err)
	}
	name := orDefault(inv.set.get("gateway.advertise"), hostname)
	at := reachable(l.Addr(), name)
	names := []string{name, hostname, host}
	if isLoopback(host) {
		if !inv.set.is("gateway.tls") {
			return clientsPort{bounded(l, "clients", refused, nil), "http://" + at + "/v1", lost}, nil
		}
		names = append(names, "localhost", "127.0.0.1", "::1")
	}
	cert, err := ca.Issue(identity.ID{Role: identity.Gateway, Name: "clients"}, ownTTL, time.Now(), names...)
	if err != nil {
		l.Close()
		return p, err
	}
	config := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	return clientsPort{bounded(l, "clients", refused, config), "https://" + at + "/v1", lost}, nil
}

// clientsAddress is where the gateway is to listen.
func (inv *invocation) clientsAddress() (host, port string, err error) {
	address := inv.set.get("gateway.listen")
	if host, port, err = net.SplitHostPort(address); err != nil {
		return "", "", usageError("gateway address %q is not HOST:PORT", address)
	}
	return host, port, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// listenAgain opens the port of last time where any would do. lost is that of last time where somebody has taken it.
func listenAgain(host, port, file string) (l net.Listener, lost string, err error) {
	if port != "0" || file == "" {
		l, err = net.Listen("tcp", net.JoinHostPort(host, port))
		return l, "", err
	}
	if last, err := statefile.ReadPrivate(file, 16); err == nil {
		address := net.JoinHostPort(host, strings.TrimSpace(string(last)))
		if l, err = net.Listen("tcp", address); err == nil {
			return l, "", nil
		} else if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, "", err
		}
		lost = address
	}
	if l, err = net.Listen("tcp", net.JoinHostPort(host, "0")); err != nil {
		return nil, "", err
	}
	text := strconv.Itoa(l.Addr().(*net.TCPAddr).Port) + "\n"
	return l, lost, statefile.Write(statefile.OS{}, file, []byte(text))
}

// writeOwner makes the owner's certificate and key for the command line on other hosts, unless there is a good one.
func writeOwner(path string, ca *identity.CA, now time.Time) error {
	if old, err := statefile.ReadPrivate(path, 1<<16); err == nil {
		if cert, err := tls.X509KeyPair(old, old); err == nil && cert.Leaf != nil && cert.Leaf.NotAfter.After(now.Add(ownTTL/2)) {
			return nil
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	cert, err := ca.Issue(identity.ID{Role: identity.CLI, Name: "owner"}, ownTTL, now)
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return fmt.Errorf("encode the owner's key: %w", err)
	}
	var text []byte
	for _, der := range cert.Certificate {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	return statefile.Write(statefile.OS{}, path, text)
}
