package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/front"
	"github.com/penstock/penstock/kvstore/front/peer"
	"github.com/penstock/penstock/kvstore/front/shm"
	"github.com/penstock/penstock/kvstore/mem"
	"github.com/penstock/penstock/scheduler/identity"
)

const (
	peerBytes   = 256 << 20 // of all blocks
	peerStreams = 4
)

// peerPlaces is where a process with blocks is reached.
type peerPlaces struct{ Door, Bare, Socket string }

// benchPeer compares blocks that one agent fetches from another over TLS with as many bytes over as many bare TLS
// connections, to a process of its own over loopback.
func benchPeer(ctx context.Context, o *options, r *report) error {
	for _, size := range []int{256 << 10, 1 << 20, 4 << 20, 16 << 20} {
		if err := withPeer(ctx, o, size, func(at peerPlaces) error { return peerFigures(ctx, r, at, size) }); err != nil {
			return err
		}
	}
	return nil
}

// withPeer has a process with blocks of one size while do runs.
func withPeer(ctx context.Context, o *options, size int, do func(peerPlaces) error) error {
	h, err := startHelper(o, rolePeer, fmt.Sprint(size))
	if err != nil {
		return err
	}
	defer h.end()
	defer h.endWith(ctx)()
	var at peerPlaces
	if err := h.hear(&at); err != nil {
		return err
	}
	return do(at)
}

func peerFigures(ctx context.Context, r *report, at peerPlaces, size int) error {
	n := peerBytes / size
	alloc := mem.New(mem.Options{Bytes: peerBytes, MaxPinned: peerBytes})
	defer alloc.Close()
	trust := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13} //nolint:gosec // a process that we have just started
	transport := &http.Transport{TLSClientConfig: trust, DisableCompression: true, MaxIdleConnsPerHost: peerStreams, ReadBufferSize: 16 << 10}
	defer transport.CloseIdleConnections()
	c := peer.Client{Alloc: alloc, Streams: peerStreams, Do: func(q *http.Request) (*http.Response, error) {
		q.URL.Scheme, q.URL.Host = "https", at.Door
		return transport.RoundTrip(q)
	}}
	bare, err := dialBareTLS(at.Bare, trust, size)
	if err != nil {
		return err
	}
	defer bare.close()
	keys := make([]kvstore.Key, n)
	for i := range keys {
		keys[i] = kvKey(i)
	}
	var ours, theirs []float64
	for round := range rounds + 1 {
		begin, came := time.Now(), 0
		if err := c.Fetch(ctx, keys, func(int, *kvstore.Block) error { came++; return nil }); err != nil || came != n {
			return errors.Join(fmt.Errorf("%d of %d blocks came", came, n), err)
		}
		got := float64(n*size) / float64(time.Since(begin))
		begin = time.Now()
		if err := bare.fetch(n / peerStreams); err != nil {
			return err
		}
		if round > 0 { // the first warms up
			ours, theirs = append(ours, got), append(theirs, float64(n/peerStreams*peerStreams*size)/float64(time.Since(begin)))
		}
	}
	r.figure("kv_peer_"+sizeName(size), median(ours), "GB/s", "bare_tls", median(theirs), more)
	return nil
}

// bareTLS is as many connections on which bytes come without a name or a checksum.
type bareTLS struct {
	conns []*tls.Conn
	bufs  [][]byte
	size  int
}

func dialBareTLS(address string, conf *tls.Config, size int) (*bareTLS, error) {
	b := &bareTLS{size: size}
	for range peerStreams {
		c, err := tls.Dial("tcp", address, conf)
		if err != nil {
			b.close()
			return nil, err
		}
		b.conns = append(b.conns, c)
		b.bufs = append(b.bufs, make([]byte, max(peerBytes/peerStreams, size)))
	}
	return b, nil
}

func (b *bareTLS) close() {
	for _, c := range b.conns {
		_ = c.Close()
	}
}

// fetch reads so many values on each connection.
func (b *bareTLS) fetch(n int) error {
	errs := make([]error, len(b.conns))
	var wait sync.WaitGroup
	for i, c := range b.conns {
		wait.Go(func() {
			var q [8]byte
			binary.LittleEndian.PutUint64(q[:], uint64(n*b.size))
			if _, errs[i] = c.Write(q[:]); errs[i] != nil {
				return
			}
			for k := range n {
				at := k * b.size % len(b.bufs[i])
				if _, errs[i] = io.ReadFull(c, b.bufs[i][at:at+b.size]); errs[i] != nil {
					return
				}
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

// playPeer is a process with blocks: behind a peer's door, in shared memory, and as bare bytes over TLS.
func playPeer(args []string) error {
	var size int
	if _, err := fmt.Sscan(args[0], &size); err != nil {
		return err
	}
	s, err := filledStore(size)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "pb")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	conf, err := selfSigned()
	if err != nil {
		return err
	}
	at := peerPlaces{Socket: filepath.Join(dir, "s")}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()

	shared, err := net.ListenUnix(shm.Network, &net.UnixAddr{Name: at.Socket, Net: shm.Network})
	if err != nil {
		return err
	}
	counts := front.NewMetrics(nil)
	neighbours := shm.New(shm.Options{Store: s, First: s, Locate: locateIn(s), PeerUID: identity.PeerUID, Counts: counts.Door("shm"), Log: zerolog.Nop()})
	serving.Go(func() { _ = neighbours.Serve(ctx, shared) })

	door, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: &peer.Door{Store: s, Counts: counts.Door("peer"), Stall: time.Minute}, ReadHeaderTimeout: time.Minute}
	serving.Go(func() { _ = srv.Serve(door) })
	defer srv.Close()
	bare, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		return err
	}
	serving.Go(func() { serveBareTLS(bare) })
	defer bare.Close()
	at.Door, at.Bare = door.Addr().String(), bare.Addr().String()
	if err := json.NewEncoder(os.Stdout).Encode(at); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

func locateIn(s *mem.Store) func(*kvstore.Block) (uint32, *os.File, int64, int64, bool) {
	return func(b *kvstore.Block) (uint32, *os.File, int64, int64, bool) {
		p, ok := s.Locate(b)
		return p.Region, p.File, p.Bytes, p.Offset, ok
	}
}

func filledStore(size int) (*mem.Store, error) {
	s := mem.New(mem.Options{Bytes: 2 * peerBytes, MaxPinned: peerBytes, Shared: true})
	for i := range peerBytes / size {
		b, err := s.Alloc(size)
		if err != nil {
			return nil, err
		}
		for j := range b.Bytes() {
			b.Bytes()[j] = byte(i + j*7)
		}
		if err := s.Put(context.Background(), kvKey(i), b.Seal(), kvstore.Hint{}); err != nil {
			return nil, err
		}
		b.Release()
	}
	return s, nil
}

// serveBareTLS sends as many bytes as each message of eight bytes asks for.
func serveBareTLS(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			data := make([]byte, peerBytes/peerStreams)
			for i := range data {
				data[i] = byte(i)
			}
			var q [8]byte
			for {
				if _, err := io.ReadFull(c, q[:]); err != nil {
					return
				}
				for left := int(binary.LittleEndian.Uint64(q[:])); left > 0; {
					n, err := c.Write(data[:min(left, len(data))])
					if left -= n; err != nil {
						return
					}
				}
			}
		}()
	}
}

func selfSigned() (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS13}, nil
}
