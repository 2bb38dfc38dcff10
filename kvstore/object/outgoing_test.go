package object

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/kvstore"
)

// slowWriter keeps the first object's bytes for longer than its caller waits, and then reads them.
type slowWriter struct {
	bucket
	once sync.Once
	goOn chan struct{}
	read chan []byte
}

func (w *slowWriter) Put(ctx context.Context, name string, data []byte, ifAbsent bool) error {
	first := false
	w.once.Do(func() { first = true })
	if first && strings.HasPrefix(name, "b/") {
		<-w.goOn // deaf to its context, as a call into a file system is
		w.read <- bytes.Clone(data)
		return ctx.Err()
	}
	return w.bucket.Put(ctx, name, data, ifAbsent)
}

// TestBytesOfAHangingRequest: a request that nobody waits for any more has its bytes for itself, however many objects are sent
// meanwhile.
func TestBytesOfAHangingRequest(t *testing.T) {
	w := &slowWriter{bucket: testFolder(t), goOn: make(chan struct{}), read: make(chan []byte, 1)}
	s := openOnTest(t, Options{PackBelow: -1, Timeout: 10 * time.Second}, w)
	ctx, cancel := context.WithCancel(t.Context())
	given := make(chan error)
	want := data(1, 100_000)
	go func() {
		b := kvstore.NewBlock(bytes.Clone(want), nil).Seal()
		defer b.Release()
		given <- s.Put(ctx, key(1, 0), b, kvstore.Hint{})
	}()
	for len(s.patience.writes) == 0 { // under way
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-given; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	for i := range 50 {
		put(t, s, key(2+i, 0), data(2+i, 100_000))
	}
	close(w.goOn)
	if got := <-w.read; !bytes.Contains(got, want) {
		t.Error("its bytes became another object's")
	}
	for i := range 50 {
		if !bytes.Equal(get(t, s, key(2+i, 0)), data(2+i, 100_000)) {
			t.Errorf("block %d is another one", 2+i)
		}
	}
	closeAll(t, s)
}

// TestShortAndWrong: an answer that ends early is asked for again, and one of the right length with other bytes is corrupt.
func TestShortAndWrong(t *testing.T) {
	b := kvstore.NewBlock(make([]byte, 3*readPiece/2), nil)
	defer b.Release()
	whole := data(1, b.Len())
	if err := readPlain(bytes.NewReader(whole[:b.Len()-1]), b, kvstore.Checksum(whole)); !errors.Is(err, kvstore.ErrCorrupt) {
		t.Errorf("short: %v", err)
	}
	if err := readPlain(io.MultiReader(bytes.NewReader(whole[1:]), strings.NewReader("x")), b, kvstore.Checksum(whole)); !errors.Is(err, kvstore.ErrCorrupt) {
		t.Errorf("wrong: %v", err)
	}
	if err := readPlain(bytes.NewReader(whole), b, kvstore.Checksum(whole)); err != nil || b.Sum() != kvstore.Checksum(whole) || !bytes.Equal(b.Bytes(), whole) {
		t.Errorf("right: %v", err)
	}
}
