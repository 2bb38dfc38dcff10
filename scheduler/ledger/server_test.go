package ledger

import (
	"io/fs"
	"testing"

	"github.com/penstock/penstock/scheduler/statefile"
	"github.com/penstock/penstock/scheduler/statefile/crashfs"
)

// lostAnswers is a file server that does what it is asked and answers, to the repetition of a request whose first
// answer got lost, that it cannot be done any more.
type lostAnswers struct{ *crashfs.FS }

func (f lostAnswers) Rename(from, to string) error {
	if err := f.FS.Rename(from, to); err != nil {
		return err
	}
	return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
}

func (f lostAnswers) Link(from, to string) error {
	if err := f.FS.Link(from, to); err != nil {
		return err
	}
	return &fs.PathError{Op: "link", Path: to, Err: fs.ErrExist}
}

// noLinks is a file system without links between folders, as some parallel ones are.
type noLinks struct{ *crashfs.FS }

func (f noLinks) Link(from, to string) error {
	err := f.FS.Link(from, to)
	if err == nil && statefile.IsTemp(from) {
		return nil // in one folder it can
	}
	if err == nil {
		err = f.Remove(to)
	}
	if err != nil {
		return err
	}
	return &fs.PathError{Op: "link", Path: to, Err: fs.ErrPermission}
}

func TestOddFileServers(t *testing.T) {
	t.Parallel()
	dumps := faultless(t, crashfs.New()).dumps
	for name, odd := range map[string]func(*crashfs.FS) statefile.FS{
		"lost answers": func(f *crashfs.FS) statefile.FS { return lostAnswers{f} },
		"no links":     func(f *crashfs.FS) statefile.FS { return noLinks{f} },
	} {
		fsys := crashfs.New()
		l := opened(t, scriptOptions(testOptions(odd(fsys))))
		for _, op := range script() {
			if err := op.do(t.Context(), l); err != nil {
				t.Fatalf("%s: %s: %v", name, op.name, err)
			}
		}
		if got := dump(reopened(t, fsys)); got != dumps[len(dumps)-1] {
			t.Errorf("%s: the ledger says\n%s", name, got)
		}
	}
}
