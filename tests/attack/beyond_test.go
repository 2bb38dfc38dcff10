package attack

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// beyondArgs is a gateway that listens on all of the machine's addresses.
type beyondArgs struct {
	URL, Key string
	CA       string // PEM of the authority by which a client knows it
}

// attackBeyondLoopback: where others than this machine's users can come, the gateway speaks TLS and nothing else, under a
// certificate that clients can check, and the key is asked for there too.
func attackBeyondLoopback(t *testing.T, s *siege) {
	at := s.startGateway(t, "wide", "--gateway-listen", "0.0.0.0:0")
	ca, err := os.ReadFile(filepath.Join(s.victim.State(), "ca", "ca.pem"))
	must(t, err)
	args := beyondArgs{URL: at, Key: "psk-aaaaaaaa-" + strings.Repeat("A", 43), CA: string(ca)}
	s.fails(t, "beyond loopback", args, "HTTP/1.0 400", "protocol version not supported", "certificate signed by unknown authority", "answered 401")
	args.Key = s.client.Key
	s.awaitWide(t, args)
	s.works(t, "as a client should", args)
}

// awaitWide waits until the gateway has heard of the keys.
func (s *siege) awaitWide(t *testing.T, args beyondArgs) {
	t.Helper()
	waitFor(t, "the gateway knows the key", func() bool { return args.ask(args.CA, args.Key) == nil })
}

func init() {
	tricks["beyond loopback"] = tryBeyondLoopback
	tricks["as a client should"] = func(in []byte, n *notes) error {
		var args beyondArgs
		if err := json.Unmarshal(in, &args); err != nil {
			return err
		}
		n.try("ask by TLS with the key and the authority", args.URL, args.ask(args.CA, args.Key))
		return nil
	}
}

func tryBeyondLoopback(in []byte, n *notes) error {
	var args beyondArgs
	if err := json.Unmarshal(in, &args); err != nil {
		return err
	}
	host, err := args.host()
	if err != nil {
		return err
	}
	line, err := speak(host, nil, "GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+args.Key+"\r\n\r\n")
	n.try("ask in plain text", host, refusedAnswer(line, err, "HTTP/1.0 400"))
	_, err = speak(host, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}, "GET / HTTP/1.1\r\n\r\n")
	n.try("ask by TLS 1.1", host, err)
	n.try("ask by TLS with a key that was made up", host, args.ask(args.CA, args.Key))
	n.try("be believed by a client that does not know the authority", host, args.ask("", args.Key))
	return nil
}

// host is the gateway's address by loopback.
func (a beyondArgs) host() (string, error) {
	u, err := url.Parse(a.URL)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort("127.0.0.1", u.Port()), nil
}

// ask asks for the models as a client does that knows an authority; "" = those of the system.
func (a beyondArgs) ask(ca, key string) error {
	u, err := url.Parse(a.URL)
	if err != nil {
		return err
	}
	conf := &tls.Config{ServerName: u.Hostname()}
	if ca != "" {
		conf.RootCAs = x509.NewCertPool()
		conf.RootCAs.AppendCertsFromPEM([]byte(ca))
	}
	host, err := a.host()
	if err != nil {
		return err
	}
	c := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(timeless, http.MethodGet, "https://"+host+"/v1/models", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("answered %d", resp.StatusCode)
	}
	return nil
}
