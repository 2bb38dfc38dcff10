package allocation

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/penstock/penstock/scheduler/statefile"
)

// Member is the file in which a keeper says how it is reached. It holds no secret, but must come from nobody else.
type Member struct {
	Node           string   `json:"node"`
	Addresses      []string `json:"addresses"`       // host:port, the likeliest first
	CertificatePEM string   `json:"certificate_pem"` // the keeper's own, for ServerName
}

// ServerName is the name in every keeper's certificate. What tells keepers apart is the certificate itself.
const ServerName = "keeper.penstock"

const (
	memberPrefix = "node-"
	maxMember    = 64 << 10
	maxAddresses = 16
)

// WriteMember leaves a keeper's file in the job's folder.
func WriteMember(dir string, m Member) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return statefile.Write(statefile.OS{}, memberPath(dir, m.Node), data)
}

func memberPath(dir, node string) string { return filepath.Join(dir, memberPrefix+node+".json") }

// readMember reads a keeper's file, of this user and nobody else's.
func readMember(dir, node string) (m Member, err error) {
	data, err := statefile.ReadPrivate(memberPath(dir, node), maxMember)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("read %s: %w", memberPath(dir, node), err)
	}
	if m.Node != node || len(m.Addresses) == 0 || len(m.Addresses) > maxAddresses {
		return m, fmt.Errorf("read %s: it is not of node %s, or names no address", memberPath(dir, node), node)
	}
	return m, nil
}

// member is a keeper as the controller knows it. Its fields are guarded by Cluster.mu.
type member struct {
	name   string
	client *http.Client // nil = its file has not been seen
	seen   time.Time    // last answer
	gone   bool         // counted as lost
	last   NodeState    // of the last answer
}

// connect makes the client of a member. Of its addresses the first that answers is used.
func connect(m Member, own func() *tls.Certificate) (*http.Client, error) {
	block, _ := pem.Decode([]byte(m.CertificatePEM))
	if block == nil {
		return nil, fmt.Errorf("keeper of node %s: its file holds no certificate", m.Node)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("keeper of node %s: its certificate: %w", m.Node, err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	dialer := &net.Dialer{Timeout: 3 * time.Second}
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: ServerName,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own(), nil },
		},
		DialContext: func(ctx context.Context, network, _ string) (conn net.Conn, err error) {
			var all []error
			for _, address := range m.Addresses {
				if conn, err = dialer.DialContext(ctx, network, address); err == nil {
					return conn, nil
				}
				all = append(all, err)
			}
			return nil, errors.Join(all...)
		},
		MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: 5 * time.Second,
	}}, nil
}

// callLimit bounds one question to one keeper, which has everything in memory.
const callLimit = 5 * time.Second

// errNo is a keeper's clear no: it has done nothing.
var errNo = errors.New("the keeper refused")

// call asks one keeper. An error that is not errNo leaves open what it has done.
func call[T any](ctx context.Context, client *http.Client, path string, body any) (v T, err error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	method, content := http.MethodGet, io.Reader(http.NoBody)
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return v, err
		}
		method, content = http.MethodPost, bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://keeper"+path, content)
	if err != nil {
		return v, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return v, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return decode[T](resp.Body)
	case http.StatusConflict:
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return v, fmt.Errorf("%w: %s", errNo, strings.TrimSpace(string(why)))
	}
	return v, fmt.Errorf("its keeper answers with HTTP status %d", resp.StatusCode)
}
