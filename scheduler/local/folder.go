package local

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/statefile"
)

// A job's folder holds job.json, stop.json once it was asked to stop, and a folder for each rank: rank-0 with rank.json,
// and exit.json once the rank has ended. A file name.spool keeps the space for name, so that a disk that has filled up
// meanwhile neither loses an exit status nor keeps a job from being stopped.
const (
	jobName  = "job.json"
	stopName = "stop.json"
	rankFile = "rank.json"
	exitName = "exit.json"
	spoolExt = ".spool"

	spoolSize = 4 << 10 // bytes of a file that was reserved, padded with spaces
	fileLimit = 1 << 20 // no file of a job folder is longer
)

// jobRecord is job.json: what Jobs needs to know and cannot see. It never changes.
type jobRecord struct {
	ID         jobID               `json:"id"`
	Launch     cluster.LaunchID    `json:"launch"`
	Run        string              `json:"run"`
	Deployment string              `json:"deployment"`
	Role       jobspecs.RoleKind   `json:"role"`
	Placement  []cluster.Placement `json:"placement"` // by rank
	Locks      []inode             `json:"locks"`     // by rank
	StartedAt  time.Time           `json:"started_at"`
	EndsAt     time.Time           `json:"ends_at,omitzero"` // by local.walltime; zero = no limit
}

// rankRecord is rank.json: what a shim needs.
type rankRecord struct {
	Job   jobID    `json:"job"`
	Rank  int      `json:"rank"`
	Mark  mark     `json:"mark"`
	Argv  []string `json:"argv"`
	Env   []string `json:"env"`
	Lock  string   `json:"lock"`
	Grace duration `json:"grace"` // when the shim is asked to end and no stop.json says how fast

	EndsAt time.Time `json:"ends_at,omitzero"` // of the job
}

// stopRecord is stop.json.
type stopRecord struct {
	AskedAt time.Time `json:"asked_at"`
	Grace   duration  `json:"grace"`
}

// exitRecord is exit.json.
type exitRecord struct {
	Exit    *cluster.Exit `json:"exit"` // null = nobody knows
	Reason  string        `json:"reason,omitempty"`
	EndedAt time.Time     `json:"ended_at"`

	Cause cluster.EndCause `json:"cause,omitempty"` // walltime, where the shim has ended it for that
}

// duration is written as Go writes it (1m30s).
type duration time.Duration

func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = duration(v)
	return err
}

func rankDir(jobDir string, rank int) string { return filepath.Join(jobDir, "rank-"+rankName(rank)) }

// readRecord reads one file of a job folder.
func readRecord(fsys statefile.FS, path string, into any) error {
	data, err := fsys.Read(path, fileLimit)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// readJob reads job.json and checks it against the folder's name.
func readJob(fsys statefile.FS, dir string) (jobRecord, error) {
	var r jobRecord
	if err := readRecord(fsys, filepath.Join(dir, jobName), &r); err != nil {
		return jobRecord{}, err
	}
	if string(r.ID) != filepath.Base(dir) || len(r.Placement) == 0 || len(r.Locks) != len(r.Placement) {
		return jobRecord{}, fmt.Errorf("read %s: it does not describe the job of its folder", filepath.Join(dir, jobName))
	}
	return r, nil
}

// readOptional reads a file that may not be there; nil = it is not.
func readOptional[T any](fsys statefile.FS, path string) (*T, error) {
	var v T
	switch err := readRecord(fsys, path, &v); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &v, nil
}

func writeRecord(fsys statefile.FS, path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return statefile.Write(fsys, path, append(data, '\n'))
}

// reserve takes the space that spool needs.
func reserve(fsys statefile.FS, path string) error {
	return statefile.Write(fsys, path+spoolExt, bytes.Repeat([]byte{' '}, spoolSize))
}

// spool writes a file into the space that was reserved for it. A file that is there already is written anew.
func spool(fsys statefile.FS, path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(data) >= spoolSize {
		return fmt.Errorf("write %s: %d bytes, at most %d were reserved", path, len(data), spoolSize-1)
	}
	data = append(data, bytes.Repeat([]byte{' '}, spoolSize-len(data)-1)...)
	data = append(data, '\n')
	f, err := fsys.Overwrite(path + spoolExt)
	if errors.Is(err, fs.ErrNotExist) {
		return statefile.Write(fsys, path, data)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := fsys.Rename(path+spoolExt, path); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(path))
}

// writeExit spools how a rank ended.
func writeExit(fsys statefile.FS, dir string, r exitRecord) error {
	r.Reason = r.Reason[:min(len(r.Reason), spoolSize/8)] // JSON makes at most 6 bytes of one
	return spool(fsys, filepath.Join(dir, exitName), r)
}
