package tiered

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/penstock/penstock/kvstore/disk"
	"github.com/penstock/penstock/kvstore/mem"
	"github.com/penstock/penstock/kvstore/storetest"
)

// TestStoreOverDisk: memory over a real disk tier, which outlives it.
func TestStoreOverDisk(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T, _ storetest.Options) storetest.Subject {
		return openOverDisk(t, filepath.Join(t.TempDir(), "kv"))
	})
}

func openOverDisk(t *testing.T, dir string) storetest.Subject {
	host := mem.New(mem.Options{Bytes: 128 << 20, Poison: true})
	d, err := disk.Open(t.Context(), disk.Options{Dir: dir, Budget: 1 << 30, Alloc: host, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(zerolog.Nop(), Tier{Store: host}, Tier{Store: d, Write: Through})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Run(ctx) })
	wg.Go(func() { _ = d.Run(ctx) })
	end := func() error {
		cancel()
		wg.Wait()
		return errors.Join(s.Close(), d.Close(), host.Close())
	}
	return storetest.Subject{
		Store: s, Close: end, Silent: true,
		Settle: func() {
			for n, _ := s.lanes[0].waiting(); n > 0; n, _ = s.lanes[0].waiting() {
				time.Sleep(time.Millisecond)
			}
		},
		Reopen: func() storetest.Subject {
			if f, err := s.Flush(t.Context(), nil); err != nil || f.Left || f.Failed > 0 {
				t.Errorf("flush: %+v, %v", f, err)
			}
			if err := end(); err != nil {
				t.Error(err)
			}
			return openOverDisk(t, dir)
		},
	}
}
