package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrForeignListener means that what listens at an address is not, or not only, of the tree that should: something else
// has taken the address, perhaps to read what is sent there.
var ErrForeignListener = errors.New("the listener does not belong to the engine")

// ErrNoListener means that nothing listens at an address yet.
var ErrNoListener = errors.New("nothing listens there")

// Owns checks that all that listens at an address is of this tree and of this process's user. The network is unix (a
// path) or tcp (a literal IP address and a port). It returns nil, ErrNoListener, ErrForeignListener with who it is, or
// why it cannot tell.
//
// A TCP listener may change hands after the answer: ask again when a connection was lost. For unix sockets OwnsConn
// checks the very connection that is used.
func (p *Process) Owns(ctx context.Context, network, address string) error {
	switch network {
	case "unix":
		return p.ownsUnix(ctx, address)
	case "tcp":
		return p.ownsTCP(address)
	}
	return fmt.Errorf("check listener at %s: network %q is neither unix nor tcp", address, network)
}

func (p *Process) ownsUnix(ctx context.Context, path string) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("check listener at %s: %w", path, ErrNoListener)
	}
	if err != nil {
		return fmt.Errorf("check listener at %s: %w", path, err)
	}
	defer func() { _ = conn.Close() }()
	return p.OwnsConn(conn)
}

// OwnsConn checks that the other end of a unix connection that was dialled was made a listener by a process of this
// tree. The kernel keeps who that was, whoever accepts later. It costs one read of /proc, or a
// look at all processes where that one has left the session of the tree.
func (p *Process) OwnsConn(conn net.Conn) error {
	peer, err := peerOf(conn)
	if err != nil {
		return fmt.Errorf("check peer at %s: %w", conn.RemoteAddr(), err)
	}
	if int(peer.Uid) != os.Geteuid() {
		return fmt.Errorf("check peer at %s: process %d of user %d: %w", conn.RemoteAddr(), peer.Pid, peer.Uid, ErrForeignListener)
	}
	switch ours, err := p.contains(int(peer.Pid)); {
	case err != nil:
		return fmt.Errorf("check peer at %s: %w", conn.RemoteAddr(), err)
	case !ours:
		return fmt.Errorf("check peer at %s: process %d: %w", conn.RemoteAddr(), peer.Pid, ErrForeignListener)
	}
	return nil
}

func peerOf(conn net.Conn) (peer *unix.Ucred, err error) {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("%T is no unix connection", conn)
	}
	rc, err := uc.SyscallConn()
	if err != nil {
		return nil, err
	}
	ctrlErr := rc.Control(func(fd uintptr) {
		peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return peer, errors.Join(ctrlErr, err)
}

// contains tells whether a process is of the tree. Most often it is the first one, whose ID cannot be another's.
func (p *Process) contains(pid int) (bool, error) {
	select {
	case <-p.done:
		return false, nil
	default:
	}
	if pid == p.pid {
		return true, nil
	}
	q, err := readStat(pid)
	if errors.Is(err, errGone) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if q.SID == p.pid || q.PGID == p.pid {
		return true, nil // without a look at all processes: this is asked for each connection
	}
	tree, err := p.Tree()
	if err != nil {
		return false, err
	}
	for _, member := range tree {
		if member.same(q) {
			return true, nil
		}
	}
	// What another program has started for the tree, such as Slurm the tasks of a step, has inherited its environment.
	return owned(pid) && p.carriedBy(pid), nil
}

func (p *Process) ownsTCP(address string) error {
	listeners, err := listenersAt(address)
	if err != nil {
		return fmt.Errorf("check listener at %s: %w", address, err)
	}
	if len(listeners) == 0 {
		return fmt.Errorf("check listener at %s: %w", address, ErrNoListener)
	}
	tree, err := p.Tree()
	if err != nil {
		return fmt.Errorf("check listener at %s: %w", address, err)
	}
	held, err := socketsOf(tree)
	if err != nil {
		return fmt.Errorf("check listener at %s: %w", address, err)
	}
	for _, l := range listeners {
		if l.uid != os.Geteuid() || !held[l.inode] {
			return fmt.Errorf("check listener at %s: socket %d of user %d: %w", address, l.inode, l.uid, ErrForeignListener)
		}
	}
	return nil
}

// socketsOf gives the inodes of the sockets that the processes hold open.
func socketsOf(tree []Proc) (map[uint64]bool, error) {
	held := map[uint64]bool{}
	for _, q := range tree {
		dir := procPath(q.PID, "fd")
		entries, err := os.ReadDir(dir)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			link, err := os.Readlink(dir + "/" + e.Name())
			if err != nil {
				continue // closed meanwhile
			}
			var inode uint64
			if n, _ := fmt.Sscanf(strings.TrimSuffix(link, "]"), "socket:[%d", &inode); n == 1 {
				held[inode] = true
			}
		}
	}
	return held, nil
}
