package accept

import (
	"bytes"
	"io"
	stdlog "log" //nolint:depguard // http.Server takes nothing else
	"net"
	"net/http"
)

// Watch ties the listener to the server that will accept from it, directly or through TLS. It adds to the hooks that the
// server has already; call it before Serve.
func (l *Listener) Watch(srv *http.Server) {
	before := srv.ConnState
	srv.ConnState = func(c net.Conn, s http.ConnState) {
		l.changed(c, s)
		if before != nil {
			before(c, s)
		}
	}
	out := io.Discard
	if srv.ErrorLog != nil {
		out = srv.ErrorLog.Writer()
	}
	srv.ErrorLog = stdlog.New(handshakes{l, out}, "", 0)
}

// handshakes counts the failed ones in what a server has to say, which is the only place where they show.
type handshakes struct {
	l    *Listener
	next io.Writer
}

func (h handshakes) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("TLS handshake error")) {
		h.l.refused.WithLabelValues(handshake).Inc()
	}
	return h.next.Write(p)
}
