package cli

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// nodeLocal are filesystems that only this machine sees, by their numbers in statfs(2). Overlays and plain disks may be
// exported to others, so they count as local only for what is said of them with care.
var nodeLocal = map[int64]string{
	0x01021994: "tmpfs (memory)", 0x858458f6: "ramfs (memory)", 0x794c7630: "overlayfs (a container's)",
}

// networked are filesystems that several machines see.
var networked = map[int64]string{
	0x6969: "NFS", 0x0bd00bd0: "Lustre", 0x47504653: "GPFS", 0x19830326: "BeeGFS", 0x00c36400: "Ceph", 0xff534d42: "CIFS",
	0xfe534d42: "SMB", 0x01021997: "9P", 0x65735546: "FUSE", 0x6a656a63: "virtiofs", 0x7461636f: "OCFS2", 0x01161970: "GFS2",
	0xaad7aaea: "PanFS", 0x5346414f: "AFS", 0x517b: "SMB",
}

// filesystemOf names the filesystem of a folder, or of the nearest one above it that is there.
func filesystemOf(path string) (kind string, shared, known bool) {
	var st unix.Statfs_t
	for unix.Statfs(path, &st) != nil {
		parent := filepath.Dir(path)
		if parent == path {
			return "", false, false
		}
		path = parent
	}
	number := int64(st.Type) & 0xffffffff
	if name, ok := networked[number]; ok {
		return name, true, true
	}
	if name, ok := nodeLocal[number]; ok {
		return name, false, true
	}
	return "a local disk, as it seems", false, false
}

// localFilesystem tells whether a folder is surely seen by this machine alone.
func localFilesystem(path string) (kind string, local bool) {
	kind, shared, known := filesystemOf(path)
	return kind, known && !shared
}

// exists tells whether there is something.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
