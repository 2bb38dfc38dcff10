package faults

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"time"
)

// unixClient is an HTTP client that knows one socket only.
func unixClient(socket string) *http.Client {
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Clean(socket))
		},
	}}
}
