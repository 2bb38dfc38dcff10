package mem

import (
	"fmt"
	"os"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/kvstore"
)

// shared is the memory of a region that other processes may look into: a file that is nowhere but in memory, and a descriptor
// of it that can only be read. Nobody else can change its size (sealed), write to it, or map it for writing.
//
// Who runs as the same user can still reach our memory by other means (ptrace, a chmod of the file), as it could reach
// private memory; what it changes there fails the checksum at the next read.
type shared struct {
	id uint32
	ro *os.File
}

// lastRegion numbers the shared regions of this process.
var lastRegion atomic.Uint32

// mapShared maps a new file of so many bytes into an address range of our own.
func mapShared(at []byte, length int64) (*shared, error) {
	fd, err := unix.MemfdCreate("penstock-kv", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make memory that can be shared: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, length); err != nil {
		return nil, fmt.Errorf("make %d MiB of memory that can be shared: %w", length>>20, err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		return nil, fmt.Errorf("seal memory that is shared: %w", err)
	}
	ro, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(fd), os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("open memory that is shared for reading: %w", err)
	}
	if err := unix.Fchmod(fd, 0o400); err != nil { // it can be opened again by /proc, and then not for writing
		_ = ro.Close()
		return nil, fmt.Errorf("protect memory that is shared: %w", err)
	}
	if err := mapFixed(fd, at[:length]); err != nil {
		_ = ro.Close()
		return nil, err
	}
	return &shared{lastRegion.Add(1), ro}, nil
}

// mapFixed puts the file in the place of an address range that is mapped already.
func mapFixed(fd int, at []byte) error {
	_, _, errno := unix.Syscall6(unix.SYS_MMAP, address(at), uintptr(len(at)), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED|unix.MAP_FIXED|unix.MAP_NORESERVE, uintptr(fd), 0)
	if errno != 0 {
		return fmt.Errorf("map %d MiB of shared memory: %w", len(at)>>20, errno)
	}
	return nil
}

// Place is where a block's bytes lie in memory that another process can map.
type Place struct {
	Region uint32   // a number of this process's own
	File   *os.File // can only be read; valid as long as the store
	Bytes  int64    // of the whole region
	Offset int64    // of the block in it
}

// Locate says where a block lies; ok is false for blocks of others, and where Options.Shared is not set. The bytes stay as they
// are for as long as somebody holds a reference to the block, and not longer.
func (s *Store) Locate(b *kvstore.Block) (p Place, ok bool) {
	if b.Owner() != kvstore.Owner(s) {
		return Place{}, false
	}
	id := slotID(b.Slot)
	r := s.arena.rows[id.class()].Load()
	g := (*r.regions.Load())[id.index()/r.per]
	if g.shared == nil {
		return Place{}, false
	}
	return Place{Region: g.shared.id, File: g.shared.ro, Bytes: int64(len(g.data)), Offset: int64(id.index()%r.per) * r.size}, true
}
