package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/scheduler/identity"
)

// relayed is one hop of the bare way: what two processes between client and engine cost when all that they do is to copy
// bytes, over the same kinds of connections as gateway and agent. With a connection for each request, and so a read and a
// write for each token, nobody can do their work for less.
type relayed struct {
	State   string   // whose CA both ends of the TLS are of
	Network string   // of the next hop: "unix", else TCP
	Next    []string // addresses of the next hop, in turn
	Entry   bool     // clients come without TLS and TLS is spoken to the next hop; else the other way round
}

// playRelay copies bytes between connections. It tells its address, and ends with its input.
func playRelay([]string) error {
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	var r relayed
	if err := json.Unmarshal(line, &r); err != nil {
		return err
	}
	accept, dial, err := r.ends()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, in)
		_ = l.Close()
	}()
	fmt.Printf("%q\n", l.Addr())
	for {
		c, err := l.Accept()
		if err != nil {
			return nil // connections end with the process
		}
		go join(accept(c), dial)
	}
}

// ends gives the two sides of a hop.
func (r relayed) ends() (accept func(net.Conn) net.Conn, dial func() (net.Conn, error), err error) {
	ca, err := identity.OpenCA(filepath.Join(r.State, "ca"))
	if err != nil {
		return nil, nil, err
	}
	id := identity.ID{Role: identity.Gateway, Name: "relay"}
	if !r.Entry {
		id = identity.ID{Role: identity.Agent, Launch: "relay", Run: "relay"}
	}
	cert, err := ca.Issue(id, time.Hour, time.Now())
	if err != nil {
		return nil, nil, err
	}
	own := func() *tls.Certificate { return &cert }
	var turn atomic.Uint64
	next := func() string { return r.Next[turn.Add(1)%uint64(len(r.Next))] }
	if r.Entry {
		conf := identity.ClientConfig(own, ca.Pool(), nil)
		return func(c net.Conn) net.Conn { return c }, func() (net.Conn, error) { return tls.Dial("tcp", next(), conf) }, nil
	}
	conf := identity.ServerConfig(own, ca.Pool(), true)
	return func(c net.Conn) net.Conn { return tls.Server(c, conf) }, func() (net.Conn, error) { return net.Dial(r.Network, next()) }, nil
}

// join copies both ways until either end closes.
func join(a net.Conn, dial func() (net.Conn, error)) {
	defer a.Close()
	b, err := dial()
	if err != nil {
		return
	}
	defer b.Close()
	go copyBytes(b, a)
	copyBytes(a, b)
}

// copyBytes writes what it reads. io.Copy would splice, which is dearer than a read and a write for so little.
func copyBytes(to, from net.Conn) {
	defer to.Close()
	buf := make([]byte, 8<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// bareWay are the processes of the bare way, and where it begins.
type bareWay struct {
	helpers []*helper
	address string
}

// startBare puts one relay in front of each engine, and one in front of these.
func startBare(o *options, state string, sockets []string) (_ *bareWay, err error) {
	w := &bareWay{}
	defer func() {
		if err != nil {
			w.end()
		}
	}()
	var agents []string
	for _, socket := range sockets {
		if err := w.start(o, relayed{State: state, Network: "unix", Next: []string{socket}}); err != nil {
			return nil, err
		}
		agents = append(agents, w.address)
	}
	return w, w.start(o, relayed{State: state, Network: "tcp", Next: agents, Entry: true})
}

func (w *bareWay) start(o *options, r relayed) error {
	h, err := startHelper(o, roleRelay)
	if err != nil {
		return err
	}
	w.helpers = append(w.helpers, h)
	return h.ask(r, &w.address)
}

func (w *bareWay) end() {
	for _, h := range w.helpers {
		h.end()
	}
}

func (w *bareWay) pids() (pids []int) {
	for _, h := range w.helpers {
		pids = append(pids, h.pid())
	}
	return pids
}
