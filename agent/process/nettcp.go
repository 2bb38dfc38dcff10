package process

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// tcpListener is a listening socket as /proc/net/tcp shows it.
type tcpListener struct {
	local netip.AddrPort
	uid   int
	inode uint64
}

// serves tells whether a connection to addr may reach the listener: the same port, and the same address or any.
func (l tcpListener) serves(addr netip.AddrPort) bool {
	own := l.local.Addr()
	return l.local.Port() == addr.Port() && (own == addr.Addr() || own.IsUnspecified() && (own.Is6() || addr.Addr().Is4()))
}

// listenersAt gives the sockets in this network namespace that a connection to address may reach.
func listenersAt(address string) ([]tcpListener, error) {
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("want a literal IP address and a port: %w", err)
	}
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	var found []tcpListener
	for _, path := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) && path == "/proc/net/tcp6" {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		all, err := parseTCP(f)
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		for _, l := range all {
			if l.serves(addr) {
				found = append(found, l)
			}
		}
	}
	return found, nil
}

// Columns of /proc/net/tcp.
const (
	tcpLocal = 1
	tcpState = 3
	tcpUID   = 7
	tcpInode = 9
)

const stateListen = "0A"

// parseTCP reads the listening sockets of a table in the form of /proc/net/tcp or tcp6.
func parseTCP(r io.Reader) ([]tcpListener, error) {
	var found []tcpListener
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) <= tcpInode || fields[tcpState] != stateListen {
			continue
		}
		local, err := parseTCPAddr(fields[tcpLocal])
		if err != nil {
			return nil, err
		}
		uid, err := strconv.ParseUint(fields[tcpUID], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("uid: %w", err)
		}
		inode, err := strconv.ParseUint(fields[tcpInode], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("inode: %w", err)
		}
		found = append(found, tcpListener{local: local, uid: int(uid), inode: inode})
	}
	return found, lines.Err()
}

// parseTCPAddr reads an address as the kernel prints it: words of four bytes in the machine's byte order, a colon, and
// the port, all in hexadecimal.
func parseTCPAddr(s string) (netip.AddrPort, error) {
	host, port, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	if err != nil || !ok || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}, fmt.Errorf("address %q is not hex:port", s)
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("port of %q: %w", s, err)
	}
	addr, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), nil
}
