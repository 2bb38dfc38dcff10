package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"connectrpc.com/connect"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/statefile"
)

// The files that commands and roles share inside the state folder.
const (
	endpointFile = "endpoint.json"
	ownerFile    = "owner.pem" // the owner's certificate and key, 0600, for other hosts
	caFolder     = "ca"
)

// noController is what a command says when nobody answers.
func noController(err error) error {
	return &exitError{code: ExitError, err: fmt.Errorf("no controller answers: %w", err), hint: "start one with: penstock serve --detach"}
}

// control connects to the controller: over its unix socket on its own host, else over mTLS with the owner's certificate.
// done closes the connections.
func (inv *invocation) control() (client apiv1.ControlServiceClient, done func(), err error) {
	state := inv.set.get("stateDir")
	e, err := identity.ReadEndpoint(filepath.Join(state, endpointFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fail(ExitError, "start one with: penstock serve --detach\nor name another folder with --state-dir or PENSTOCK_STATE_DIR",
			"no controller answers: none has run on the state folder %s", state)
	} else if err != nil {
		return nil, nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, nil, fmt.Errorf("find this host's name: %w", err)
	}
	if inv.controllerAt != "" {
		e.URL = inv.controllerAt
		return byCertificate(state, e)
	}
	if e.Hostname == host && e.Socket != "" {
		return bySocket(e)
	}
	return byCertificate(state, e)
}

// bySocket trusts the socket only if the process behind it is of the same user.
func bySocket(e identity.Endpoint) (apiv1.ControlServiceClient, func(), error) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", e.Socket)
		if err != nil {
			return nil, err
		}
		uid, err := identity.PeerUID(conn)
		if err == nil && uid != os.Getuid() {
			err = fmt.Errorf("the process behind %s belongs to uid %d, not to you", e.Socket, uid)
		}
		if err != nil {
			conn.Close()
			return nil, err
		}
		return conn, nil
	}
	conn, err := dial(context.Background(), "", "")
	if err != nil {
		return nil, nil, noController(fmt.Errorf("term %d on %s has ended or is starting (%w)", e.Term, e.Hostname, err))
	}
	conn.Close()
	tr := &http.Transport{DialContext: dial}
	return controlClient(tr, "http://control"), tr.CloseIdleConnections, nil
}

func byCertificate(state string, e identity.Endpoint) (apiv1.ControlServiceClient, func(), error) {
	pem, err := statefile.ReadPrivate(filepath.Join(state, ownerFile), 1<<16)
	if err != nil {
		return nil, nil, fmt.Errorf("the controller runs on %s; read the owner's certificate: %w", e.Hostname, err)
	}
	cert, err := tls.X509KeyPair(pem, pem)
	if err != nil {
		return nil, nil, fmt.Errorf("read the owner's certificate %s: %w", filepath.Join(state, ownerFile), err)
	}
	pool, err := identity.PoolFromPEM([]byte(e.CAPEM))
	if err != nil {
		return nil, nil, fmt.Errorf("read the controller's CA: %w", err)
	}
	config := identity.ClientConfig(func() *tls.Certificate { return &cert }, pool, identity.WantRole(identity.Controller))
	tr := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext}
	return controlClient(tr, e.URL), tr.CloseIdleConnections, nil
}

// answerPatience is how long a controller that hangs is waited for. Streams may be silent for as long as they like.
const answerPatience = time.Minute

func controlClient(tr *http.Transport, url string) apiv1.ControlServiceClient {
	patient := func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			limited, cancel := context.WithTimeout(ctx, answerPatience)
			defer cancel()
			resp, err := next(limited, req)
			if err != nil && ctx.Err() == nil && limited.Err() != nil {
				return nil, connect.NewError(connect.CodeDeadlineExceeded, fmt.Errorf("the controller has not answered for %s", answerPatience))
			}
			return resp, err
		}
	}
	return apiv1.NewControlServiceClient(&http.Client{Transport: tr}, url, connect.WithInterceptors(connect.UnaryInterceptorFunc(patient)))
}
