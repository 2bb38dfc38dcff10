package disk

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// TestReadsThatAreNotAligned: of a file that was opened to pass the page cache by, all of several readers at one time get what
// they ask for, wherever it lies.
func TestReadsThatAreNotAligned(t *testing.T) {
	dir := t.TempDir()
	content := bytes.Repeat([]byte("0123456789"), 5000)
	if err := os.WriteFile(filepath.Join(dir, "f"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := openFolder(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if !d.Direct() {
		t.Log("this file system has no O_DIRECT: shown is only that reads work without")
	}
	for range 300 {
		f, err := d.Open("f")
		if err != nil {
			t.Fatal(err)
		}
		var readers sync.WaitGroup
		begin := make(chan struct{})
		for i := range 8 {
			readers.Go(func() {
				got := make([]byte, 1001)
				<-begin
				if err := f.ReadAt(int64(7*i+1), got); err != nil || !bytes.Equal(got, content[7*i+1:7*i+1002]) {
					t.Errorf("reader %d: %v", i, err)
				}
			})
		}
		close(begin)
		readers.Wait()
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
