package server

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// usageFiles are files of one JSON line per finished request, one file per day. They are for one goroutine.
type usageFiles struct {
	dir   string                              // 0700
	write func(*os.File, []byte) (int, error) // (*os.File).Write; tests fill the disk
	mend  map[string]bool                     // files looked at for half a line at their end
}

func newUsageFiles(dir string) usageFiles {
	return usageFiles{dir: dir, write: (*os.File).Write, mend: map[string]bool{}}
}

// append writes a line for each record, in the order in which they came, and returns those that could not be written: all of a
// day's or none.
func (u usageFiles) append(recs []*apiv1.RequestRecord) (left []*apiv1.RequestRecord, err error) {
	days := map[string][]*apiv1.RequestRecord{}
	for _, rec := range recs {
		day := rec.GetAt().AsTime().UTC().Format(time.DateOnly)
		days[day] = append(days[day], rec)
	}
	for _, day := range slices.Sorted(maps.Keys(days)) {
		if dayErr := u.appendDay(day, days[day]); dayErr != nil {
			left = append(left, days[day]...)
			err = errors.Join(err, dayErr)
		}
	}
	return left, err
}

func (u usageFiles) appendDay(day string, recs []*apiv1.RequestRecord) error {
	var lines []byte
	for _, rec := range recs {
		line, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(usageOf(rec))
		if err != nil {
			return fmt.Errorf("encode usage of request %s: %w", rec.Id, err)
		}
		lines = append(append(lines, line...), '\n')
	}
	name := filepath.Join(u.dir, day+".jsonl")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("append usage: %w", err)
	}
	err = u.appendTo(f, lines)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("append usage to %s: %w", name, err)
	}
	return nil
}

// appendTo appends lines, all of them or none.
func (u usageFiles) appendTo(f *os.File, lines []byte) error {
	if !u.mend[f.Name()] {
		if err := cutHalfLine(f); err != nil {
			return err
		}
		u.mend[f.Name()] = true
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err := u.write(f, lines); err != nil {
		return errors.Join(err, f.Truncate(info.Size()))
	}
	return nil
}

// maxUsageLine bounds a line of a usage file, of which the longest part is a model's name.
const maxUsageLine = 64 << 10

// cutHalfLine takes away the beginning of a line at the end of a file, which a power cut has left. Nobody was told that it
// was written.
func cutHalfLine(f *os.File) error {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	tail := make([]byte, min(info.Size(), maxUsageLine))
	if _, err := f.ReadAt(tail, info.Size()-int64(len(tail))); err != nil {
		return err
	}
	half := int64(len(tail) - 1 - bytes.LastIndexByte(tail, '\n'))
	if half == 0 {
		return nil
	}
	return f.Truncate(info.Size() - half)
}

// recent reads which requests stand in the newest files, at most the last n. What cannot be read is left out.
func (u usageFiles) recent(n int) map[string]bool {
	ids := map[string]bool{}
	names, err := os.ReadDir(u.dir)
	if err != nil {
		return ids
	}
	for _, entry := range slices.Backward(names) { // by name, which is by day
		if !strings.HasSuffix(entry.Name(), ".jsonl") {
			continue
		}
		text, err := readTail(filepath.Join(u.dir, entry.Name()), int64(n)*maxRecentLine)
		if err != nil {
			continue
		}
		lines := bytes.Split(text, []byte("\n"))
		for _, line := range slices.Backward(lines) {
			rec := &apiv1.RequestRecord{}
			if len(ids) < n && readUsage(line, rec) == nil && rec.Id != "" {
				ids[rec.Id] = true
			}
		}
		if len(ids) >= n {
			break
		}
	}
	return ids
}

// maxRecentLine is how long lines are taken to be when only the last ones are read; longer ones mean fewer.
const maxRecentLine = 512

func readTail(name string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, fs.ErrInvalid)
	}
	tail := make([]byte, min(info.Size(), limit))
	_, err = f.ReadAt(tail, info.Size()-int64(len(tail)))
	return tail, err
}

func readUsage(line []byte, rec *apiv1.RequestRecord) error {
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(line, rec)
}
