package testbed

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// List returns the folders of all beds on this machine.
func List() []string {
	dirs, _ := filepath.Glob(filepath.Join(Base, "b*"))
	return dirs
}

// Newest returns the folder of the newest bed that was made to be kept.
func Newest() (string, error) {
	newest, at := "", time.Time{}
	for _, dir := range List() {
		r, err := readRecord(dir)
		info, serr := os.Stat(filepath.Join(dir, "bed.json"))
		if err == nil && serr == nil && r.Since == "" && info.ModTime().After(at) {
			newest, at = dir, info.ModTime()
		}
	}
	if newest == "" {
		return "", errors.New("no test bed was made by hand: make one with up")
	}
	return newest, nil
}

// Sweep removes every bed whose process has ended, or, with all, every bed.
func Sweep(all bool) (err error) {
	for _, dir := range List() {
		r, rerr := readRecord(dir)
		// A folder without a record is one that is being made, unless all is said.
		if all || rerr == nil && r.Since != "" && startOf(r.Owner) != r.Since {
			err = errors.Join(err, Remove(dir))
		}
	}
	if len(List()) == 0 {
		_ = os.Remove(Base)
	}
	return err
}

// Remove ends every process of the bed in a folder and removes the folder, whatever state the bed is in.
func Remove(dir string) error {
	for n := range Nodes + 1 {
		m := newMachine(&Bed{Dir: dir}, n)
		m.find()
		m.kill()
	}
	return remove(dir)
}

// remove removes a bed's folder. A process that is about to die may still write into it.
func remove(dir string) (err error) {
	if filepath.Dir(dir) != Base {
		return fmt.Errorf("remove the test bed %q: it is not under %s", dir, Base)
	}
	for range 100 {
		if err = os.RemoveAll(dir); err == nil || !errors.Is(err, syscall.ENOTEMPTY) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}
