package object

import (
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/keyring"
	"github.com/penstock/penstock/kvstore/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestStore runs the suite over a folder, with blocks packed and not, in the clear and encrypted, and over an S3 server in this
// process.
func TestStore(t *testing.T) {
	ring, _ := keyring.New()
	buckets := map[string]func(t *testing.T) bucket{
		"file": func(t *testing.T) bucket {
			f, err := openFolder(filepath.Join(t.TempDir(), "kv"))
			if err != nil {
				t.Fatal(err)
			}
			return f
		},
		"s3": fakeS3,
	}
	for place, open := range buckets {
		for name, o := range map[string]Options{
			"packed": {}, "apart": {PackBelow: -1}, "encrypted": {Keys: ring}, "encrypted and apart": {Keys: ring, PackBelow: -1},
		} {
			if place == "s3" && (o.Keys != nil || o.PackBelow < 0) {
				continue // tests/s3 has it, on real servers
			}
			t.Run(place+"/"+name, func(t *testing.T) {
				t.Parallel()
				storetest.Run(t, func(t *testing.T, want storetest.Options) storetest.Subject {
					o := o
					o.Moves, o.PackBytes, o.Cooldown = want.Moves, 128<<10, time.Millisecond
					return subject(t, o, &patient{bucket: open(t)})
				})
			})
		}
	}
}

// fakeS3 starts a server with an empty bucket, and returns the product's own client for it.
func fakeS3(t *testing.T) bucket {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("blocks"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(server.Close)
	target, err := parseTarget("s3://blocks/some/prefix", server.URL)
	if err != nil {
		t.Fatal(err)
	}
	o, err := Options{PathStyle: true}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	transport, err := newTransport(o)
	if err != nil {
		t.Fatal(err)
	}
	core, err := minio.NewCore(target.host, &minio.Options{
		Creds: credentials.NewStaticV4("user", "password", ""), Transport: transport, BucketLookup: minio.BucketLookupPath, MaxRetries: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &s3{core: core, transport: transport, bucket: target.bucket, prefix: target.prefix, host: target.host}
}

// patient is a bucket that can be told what to do before each call, and to hang.
type patient struct {
	bucket
	mu     sync.Mutex
	before func(op, name string) error
	after  func(op, name string) // only from one goroutine
}

func (p *patient) set(before func(op, name string) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.before = before
}

func (p *patient) step(op, name string) error {
	p.mu.Lock()
	before := p.before
	p.mu.Unlock()
	if before == nil {
		return nil
	}
	return before(op, name)
}

func (p *patient) Put(ctx context.Context, name string, data []byte, ifAbsent bool) error {
	return errors.Join(p.step("put", name), p.bucket.Put(ctx, name, data, ifAbsent))
}

func (p *patient) Get(ctx context.Context, name string, at, n int64) (io.ReadCloser, error) {
	if err := p.step("get", name); err != nil {
		return nil, err
	}
	return p.bucket.Get(ctx, name, at, n)
}

func (p *patient) List(ctx context.Context, prefix string, each func(string, stat) error) error {
	if err := p.step("list", prefix); err != nil {
		return err
	}
	err := p.bucket.List(ctx, prefix, each)
	if p.after != nil {
		p.after("list", prefix)
	}
	return err
}

func openOnTest(t *testing.T, o Options, b bucket) *Store {
	t.Helper()
	o, err := o.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s := openOn(context.Background(), b, o)
	if err := s.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func subject(t *testing.T, o Options, b *patient) storetest.Subject {
	t.Helper()
	memory := storetest.NewMemory()
	o.Alloc = memory
	s := openOnTest(t, o, b)
	return storetest.Subject{
		Store: s, Live: memory.Live,
		Close: func() error { return s.Close(context.Background()) },
		Settle: func() {
			if err := s.Sync(t.Context()); err != nil {
				t.Error(err)
			}
		},
		Reopen: func() storetest.Subject {
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
			return subject(t, o, b)
		},
		Corrupt: func(k kvstore.Key) { s.flip(t, k) },
		Hang: func() func() {
			goOn := make(chan struct{})
			b.set(func(string, string) error { <-goOn; return nil })
			return func() { b.set(nil); close(goOn) }
		},
	}
}

// flip changes one bit in the middle of what is stored under the key.
func (s *Store) flip(t *testing.T, k kvstore.Key) {
	t.Helper()
	name, at, ok := blockName(k), int64(0), false
	s.mu.Lock()
	if where, packed := s.index[k]; packed {
		name, at, ok = s.packs[where.pack].name, int64(where.at)+headerSize+int64(where.size)/2, true
	}
	s.mu.Unlock()
	body, err := s.bucket.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		at = int64(len(data) / 2)
	}
	data[at] ^= 4
	if err := s.bucket.Put(t.Context(), name, data, false); err != nil {
		t.Fatal(err)
	}
}
