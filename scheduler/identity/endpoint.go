package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"time"

	"github.com/penstock/penstock/scheduler/statefile"
)

const maxEndpoint = 256 << 10

// ErrOlderTerm means that a newer controller has written the endpoint file.
var ErrOlderTerm = errors.New("a newer controller has taken over")

// Endpoint says where the controller of a state folder is reached now. Agents, gateways and the command line read it
// again whenever a connection fails.
type Endpoint struct {
	Format     int       `json:"format"` // 1; set by WriteEndpoint
	Term       uint64    `json:"term"`
	URL        string    `json:"url"`              // https://host:port, for agents and gateways
	Socket     string    `json:"socket,omitempty"` // unix socket of the control API, on Hostname only
	Hostname   string    `json:"hostname"`
	PID        int       `json:"pid"`
	StartedAt  time.Time `json:"started_at"`
	GatewayURL string    `json:"gateway_url,omitempty"` // for clients, ending in /v1; empty = no gateway in this process
	CAPEM      string    `json:"ca_pem"`
}

const endpointFormat = 1

// WriteEndpoint writes the file whole, 0600. ErrOlderTerm: the file is of a newer term, and stays.
func WriteEndpoint(path string, e Endpoint) error {
	data, err := EncodeEndpoint(e)
	if err != nil {
		return fmt.Errorf("write endpoint file %s: %w", path, err)
	}
	if old, err := ReadEndpoint(path); err == nil && old.Term > e.Term {
		return fmt.Errorf("write endpoint file %s: %w: it is of term %d on %s, this controller of term %d", path, ErrOlderTerm, old.Term, old.Hostname, e.Term)
	}
	if err := statefile.Write(statefile.OS{}, path, data); err != nil {
		return fmt.Errorf("write endpoint file: %w", err)
	}
	return nil
}

// EncodeEndpoint is an endpoint file's content, for where it is not a file yet.
func EncodeEndpoint(e Endpoint) ([]byte, error) {
	e.Format = endpointFormat
	if err := e.validate(); err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(e, "", "  ")
	return append(data, '\n'), err
}

// ReadEndpoint reads and checks an endpoint file. fs.ErrNotExist: no controller has ever run on this folder.
func ReadEndpoint(path string) (Endpoint, error) {
	data, err := statefile.ReadPrivate(path, maxEndpoint)
	if err != nil {
		return Endpoint{}, fmt.Errorf("endpoint file: %w", err)
	}
	e, err := parseEndpoint(data)
	if err != nil {
		return Endpoint{}, fmt.Errorf("endpoint file %s: %w", path, err)
	}
	return e, nil
}

func parseEndpoint(data []byte) (Endpoint, error) {
	var e Endpoint
	if err := json.Unmarshal(data, &e); err != nil {
		return Endpoint{}, err
	}
	if e.Format != endpointFormat {
		return Endpoint{}, fmt.Errorf("format %d, this release reads %d", e.Format, endpointFormat)
	}
	return e, e.validate()
}

func (e Endpoint) validate() error {
	if err := checkURL(e.URL); err != nil {
		return err
	}
	if len(e.Socket) > maxSocketPath {
		return fmt.Errorf("socket path of %d bytes: at most %d are possible", len(e.Socket), maxSocketPath)
	}
	_, err := PoolFromPEM([]byte(e.CAPEM))
	return err
}

// checkURL accepts https://host:port and nothing more.
func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil {
		return fmt.Errorf("controller URL: %w", err)
	}
	host, port, err := net.SplitHostPort(u.Host)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || n == 0 || host == "" || u.Scheme != "https" || (&url.URL{Scheme: u.Scheme, Host: u.Host}).String() != s {
		return fmt.Errorf("controller URL %q is not https://host:port", s)
	}
	return nil
}
