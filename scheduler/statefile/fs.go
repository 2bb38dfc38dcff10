// Package statefile reads and writes the small files that Penstock keeps for itself: records, keys, tokens, endpoints.
//
// A file is there whole or not at all, survives the end of the process and of the machine once Write has returned, and
// works the same on local disks, NFS, Lustre and GPFS: no mmap, no flock, no rewriting in place (but for heartbeats).
// Folders and secrets are checked for their owner and mode, as ssh does.
//
// It knows nothing of what the files hold. The ledger, identity and keys write through it. crashfs is its second file
// system: in memory, it forgets at a crash what was never synced.
package statefile

import "io"

// FS is what the writers of state files ask of a file system. Paths are slash paths as package os takes them. Errors
// are those of package os (errors.Is with fs.ErrExist, fs.ErrNotExist, syscall.ENOSPC works). Safe for concurrent use.
type FS interface {
	// Create makes a new file, mode 0600, and fails with fs.ErrExist where anything has that name.
	Create(name string) (File, error)
	// Append opens a file for appending and creates it, mode 0600, where it is missing. It follows no link.
	Append(name string) (File, error)
	// Overwrite opens a file that exists for writing from its start, without truncating it: no space is needed for
	// content of the same length.
	Overwrite(name string) (File, error)
	// Read returns a whole file and fails when it is longer than limit bytes.
	Read(name string, limit int64) ([]byte, error)
	// List returns the names in a folder, sorted. On NFS it sees what other hosts have made (it opens the folder).
	List(dir string) ([]string, error)
	// Mkdir makes one folder, mode 0700.
	Mkdir(dir string) error
	Rename(from, to string) error
	// Link makes a second name for a file and fails with fs.ErrExist where the name is taken.
	Link(from, to string) error
	Remove(name string) error
	RemoveAll(dir string) error
	// SyncDir makes the names in a folder durable.
	SyncDir(dir string) error
}

// File is an open file of an FS.
type File interface {
	io.Writer
	// Sync makes the content durable.
	Sync() error
	Close() error
}
