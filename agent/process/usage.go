package process

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Usage is what a tree has used since it began, as far as the kernel tells. A process counts what its reaped children
// have used, so that the sums go on rising while workers come and go.
type Usage struct {
	ReadBytes uint64        // fetched from storage, by reads and by page faults on mapped files
	ReadChars uint64        // passed through read(2) and its kin, from the page cache and from pipes too
	CPU       time.Duration // user and system
	Hidden    int           // processes whose reads cannot be seen: with any, the reads are a lower bound
}

// IO sums up a tree: the progress of an engine that loads its weights. Mapped weights show in ReadBytes only, weights
// that are in the page cache already in ReadChars only, or, when mapped, in CPU alone.
func IO(tree []Proc) Usage {
	var sum Usage
	for _, p := range tree {
		sum.CPU += p.CPU
		chars, read, err := readIO(p.PID)
		switch {
		case errors.Is(err, errGone):
		case err != nil:
			sum.Hidden++
		default:
			sum.ReadChars += chars
			sum.ReadBytes += read
		}
	}
	return sum
}

func readIO(pid int) (chars, read uint64, err error) {
	var buf [1024]byte
	b, err := readInto(buf[:], procPath(pid, "io"))
	if err != nil {
		return 0, 0, err
	}
	return parseIO(b)
}

// parseIO reads /proc/PID/io: a name, a colon and a number on each line.
func parseIO(b []byte) (chars, read uint64, err error) {
	found := map[string]uint64{}
	for line := range bytes.Lines(b) {
		name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(": "))
		if string(name) != "rchar" && string(name) != "read_bytes" {
			continue
		}
		if found[string(name)], err = strconv.ParseUint(string(value), 10, 64); err != nil {
			return 0, 0, fmt.Errorf("%s of a process: %w", name, err)
		}
	}
	if len(found) != 2 {
		return 0, 0, errors.New("no rchar and read_bytes of a process")
	}
	return found["rchar"], found["read_bytes"], nil
}
