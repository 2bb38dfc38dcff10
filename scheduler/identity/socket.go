package identity

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/scheduler/statefile"
)

const (
	// maxSocketPath is what fits in sun_path with its closing zero.
	maxSocketPath = 107
	// roomForName is what SocketDir leaves for the sockets' own names.
	roomForName = 20
)

// SecureDir makes a folder (0700, with missing parents) or checks one that is there: a real folder, owned by this user,
// closed to everybody else, under parents that no stranger can change. The error says what to do.
func SecureDir(path string) error { return statefile.SecureDir(path) }

// SocketDir makes or checks runtimeDir and in it the folder name for unix sockets, both as SecureDir does, and returns
// the folder's path. Sockets with names of up to 20 bytes fit in it, else it fails and says so.
func SocketDir(runtimeDir, name string) (string, error) {
	dir, err := filepath.Abs(filepath.Join(runtimeDir, name))
	if err != nil {
		return "", err
	}
	if n := len(dir) + 1 + roomForName; n > maxSocketPath {
		return "", fmt.Errorf("folder for sockets %s is %d bytes too long: unix sockets' paths end at %d bytes; choose a shorter runtime folder",
			dir, n-maxSocketPath, maxSocketPath)
	}
	if err := SecureDir(runtimeDir); err != nil {
		return "", err
	}
	return dir, SecureDir(dir)
}

// SocketPath joins a folder and a socket's name and fails where the path would not fit.
func SocketPath(dir, name string) (string, error) {
	path := filepath.Join(dir, name)
	if len(path) > maxSocketPath {
		return "", fmt.Errorf("socket %s has %d bytes, at most %d are possible; choose a shorter folder", path, len(path), maxSocketPath)
	}
	return path, nil
}

// PeerUID returns the user at the other end of a unix socket, as the kernel knows it (SO_PEERCRED): who called connect,
// or who called listen.
func PeerUID(conn net.Conn) (int, error) {
	sc, ok := conn.(syscall.Conn)
	if !ok || !strings.HasPrefix(conn.LocalAddr().Network(), "unix") {
		return 0, errors.New("peer's user: not a unix socket")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("peer's user: %w", err)
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(cerr, err); err != nil {
		return 0, fmt.Errorf("peer's user: %w", err)
	}
	return int(cred.Uid), nil
}
