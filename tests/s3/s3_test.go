// Package s3 tests the object tier against real S3 servers, with faults between.
package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/keyring"
	"github.com/penstock/penstock/kvstore/object"
	"github.com/penstock/penstock/kvstore/storetest"
	"github.com/penstock/penstock/tests/s3/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var prefixes atomic.Int64

// options are for a place of its own in the server's bucket.
func options(s *server.Server, endpoint string) object.Options {
	return object.Options{
		URL: fmt.Sprintf("s3://%s/test-%d", server.Bucket, prefixes.Add(1)), Endpoint: endpoint, Region: "us-east-1", PathStyle: true,
		CredentialsFile: s.Login, CAFile: s.Cert, Cooldown: 10 * time.Millisecond, Timeout: 10 * time.Second,
	}
}

func open(t *testing.T, o object.Options) *object.Store {
	t.Helper()
	s, err := object.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.Background()) }) // the server may be gone
	return s
}

// TestStore runs the suite over TLS, packed and apart, and encrypted.
func TestStore(t *testing.T) {
	ring, _ := keyring.New()
	for _, k := range server.Kinds() {
		s := server.Start(t, k)
		for name, set := range map[string]func(*object.Options){
			"packed": func(o *object.Options) { o.Keys = ring }, "apart": func(o *object.Options) { o.PackBelow = -1 },
		} {
			t.Run(k.Name+"/"+name, func(t *testing.T) {
				storetest.Run(t, func(t *testing.T, want storetest.Options) storetest.Subject {
					o := options(s, s.Endpoint())
					set(&o)
					o.Moves, o.PackBytes = want.Moves, 256<<10
					return subject(t, o)
				})
			})
		}
	}
}

func subject(t *testing.T, o object.Options) storetest.Subject {
	t.Helper()
	memory := storetest.NewMemory()
	o.Alloc = memory
	s, err := object.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return storetest.Subject{
		Store: s, Live: memory.Live, Close: func() error { return s.Close(context.Background()) },
		Settle: func() {
			if err := s.Sync(t.Context()); err != nil {
				t.Error(err)
			}
		},
		Reopen: func() storetest.Subject {
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
			return subject(t, o)
		},
	}
}

func key(n int) kvstore.Key {
	return kvstore.Key{Space: kvstore.Space{3}, Name: kvstore.OpaqueName(fmt.Sprint(n))}
}

// content is of one size for each key: some are packed, some not.
func content(n int) []byte {
	b := make([]byte, 1000+n%7*20_000)
	rng := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)})
	_, _ = rng.Read(b)
	return b
}

func put(ctx context.Context, s *object.Store, n int) error {
	b := kvstore.NewBlock(content(n), nil).Seal()
	defer b.Release()
	return s.Put(ctx, key(n), b, kvstore.Hint{})
}

// check says whether a block is there. Wrong bytes and errors that are no miss fail the test.
func check(ctx context.Context, t *testing.T, s *object.Store, n int) bool {
	t.Helper()
	b, err := s.Get(ctx, key(n))
	if err != nil {
		if !kvstore.IsMiss(err) {
			t.Errorf("block %d: %v", n, err)
		}
		return false
	}
	defer b.Release()
	if !bytes.Equal(b.Bytes(), content(n)) {
		t.Errorf("block %d: %d wrong bytes", n, b.Len())
	}
	return true
}

// TestFaults: with a fault in every few requests nothing wrong is ever read, most of what is put is found, and the server is
// not asked much more often than without.
func TestFaults(t *testing.T) {
	for _, k := range server.Kinds() {
		s := server.Start(t, k)
		for name, f := range map[string]fault{"late": late, "reset": reset, "busy": busy, "cut": cut, "skewed": skewed} {
			t.Run(k.Name+"/"+name, func(t *testing.T) {
				p := between(t, s)
				o := options(s, p.URL)
				o.PackBelow, o.PackBytes = 10_000, 64<<10
				store := open(t, o)
				rng := rand.New(rand.NewPCG(1, uint64(f)))
				var mu sync.Mutex
				p.set(func(*http.Request) fault {
					mu.Lock()
					defer mu.Unlock()
					if rng.IntN(6) == 0 {
						return f
					}
					return none
				})
				const n = 60
				for i := range n {
					if err := put(t.Context(), store, i); err != nil && !errors.Is(err, kvstore.ErrUnavailable) {
						t.Fatal(err)
					}
				}
				if err := store.Sync(t.Context()); err != nil && !errors.Is(err, kvstore.ErrUnavailable) {
					t.Fatal(err)
				}
				found := 0
				for i := range n {
					if check(t.Context(), t, store, i) {
						found++
					}
				}
				if st := store.Stats(); found < n/2 || st.Corrupt != 0 {
					t.Errorf("%d blocks of %d are found; %+v", found, n, st)
				}
				if sent := p.requests.Load(); sent > 6*n {
					t.Errorf("%d requests", sent)
				}
				t.Logf("%d blocks of %d are found after %d requests; %+v", found, n, p.requests.Load(), store.Detail())
			})
		}
	}
}

// TestDeadBucket: a server that is stopped, and one that is killed, cost a deadline at first and nothing after that. When it is
// back, its blocks are.
func TestDeadBucket(t *testing.T) {
	for _, k := range server.Kinds() {
		t.Run(k.Name, func(t *testing.T) {
			s := server.Start(t, k)
			o := options(s, s.Endpoint())
			o.Timeout, o.PackBelow = 500*time.Millisecond, -1
			o.Cooldown = 200 * time.Millisecond
			store := open(t, o)
			for i := range 10 {
				if err := put(t.Context(), store, i); err != nil {
					t.Fatal(err)
				}
			}
			for name, act := range map[string]struct{ end, back func() }{
				"stopped": {
					func() { _ = s.Signal(syscall.SIGSTOP) },
					func() { _ = s.Signal(syscall.SIGCONT) },
				},
				"killed": {s.Kill, s.Run},
			} {
				act.end()
				waitUntil(t, name, func() bool { // the circuit opens, and calls end at once
					check(t.Context(), t, store, 1)
					return store.Detail().Open
				})
				err := put(t.Context(), store, 100)
				if !errors.Is(err, kvstore.ErrUnavailable) {
					t.Errorf("%s: put: %v", name, err)
				}
				act.back()
				waitUntil(t, name+" and back", func() bool { return check(t.Context(), t, store, 1) })
				for i := range 10 {
					if !check(t.Context(), t, store, i) {
						t.Errorf("%s: block %d is gone", name, i)
					}
				}
			}
		})
	}
}

func waitUntil(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what, ": it does not come about")
		}
	}
}

// TestSilence: a server that takes requests and never answers costs each caller its own deadline.
func TestSilence(t *testing.T) {
	for _, k := range server.Kinds() {
		s := server.Start(t, k)
		p := between(t, s)
		store := open(t, options(s, p.URL))
		p.set(func(*http.Request) fault { return silence })
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			if _, err := store.Get(ctx, key(1)); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, kvstore.ErrUnavailable) {
				t.Errorf("get: %v", err)
			}
			cancel()
		}
		p.CloseClientConnections()
	}
}

// TestSeveralClusters: stores that know nothing of each other use one bucket and collect in it. A block that all put at one time is
// one object.
func TestSeveralClusters(t *testing.T) {
	for _, k := range server.Kinds() {
		t.Run(k.Name, func(t *testing.T) {
			s := server.Start(t, k)
			o := options(s, s.Endpoint())
			o.PackBelow, o.PackBytes, o.Budget = 10_000, 64<<10, 1<<20
			stores := []*object.Store{open(t, o), open(t, o), open(t, o)}
			var wg sync.WaitGroup
			for w, store := range stores {
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(9, uint64(w)))
					for i := range 80 {
						n := rng.IntN(30)
						var err error
						switch {
						case i%20 == 19:
							_, err = store.Collect(t.Context(), object.Collection{})
						case i%10 == 9:
							err = store.Refresh(t.Context())
						case i%8 == 7:
							err = store.Delete(t.Context(), key(n))
						case i%2 == 0:
							err = put(t.Context(), store, n)
						default:
							check(t.Context(), t, store, n)
						}
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			for w, store := range stores {
				if c := store.Stats().Corrupt; c != 0 {
					t.Errorf("store %d: %d corrupt blocks", w, c)
				}
			}
			for _, store := range stores {
				wg.Go(func() {
					if err := put(t.Context(), store, 1001); err != nil { // 1001%7 == 0 is packed, 1002 is not
						t.Error(err)
					}
					if err := put(t.Context(), store, 1002); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			same := int64(0)
			for _, store := range stores {
				same += store.Detail().Same
			}
			if same < 2 {
				t.Errorf("%d puts of 3 found the block there already, want 2", same)
			}
		})
	}
}

// TestDamage: bits that flip on the server's own disk are misses and are counted, and nothing else is.
func TestDamage(t *testing.T) {
	for _, k := range server.Kinds() {
		if k.Name != "versitygw" {
			continue // others keep checksums of their own, and do not give out what is damaged
		}
		s := server.Start(t, k)
		o := options(s, s.Endpoint())
		o.PackBelow = -1
		store := open(t, o)
		for i := range 6 {
			if err := put(t.Context(), store, i); err != nil {
				t.Fatal(err)
			}
		}
		files := objects(t, s.Root)
		if len(files) != 6 {
			t.Fatalf("%d objects, want 6", len(files))
		}
		for _, name := range files[:3] {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			data[len(data)/2] ^= 1
			f, err := os.OpenFile(name, os.O_WRONLY, 0) // in place: its attributes stay
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.WriteAt(data, 0)
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
		}
		found := 0
		for i := range 6 {
			if check(t.Context(), t, store, i) {
				found++
			}
		}
		if c := store.Stats().Corrupt; found != 3 || c != 3 {
			t.Errorf("%d blocks are found, %d are corrupt; want 3 and 3", found, c)
		}
	}
}

func objects(t *testing.T, root string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(root, server.Bucket), func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.Contains(p, "/b/") {
			files = append(files, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestSecretsAreNotLogged: neither wrong nor right credentials appear in logs and errors.
func TestSecretsAreNotLogged(t *testing.T) {
	for _, k := range server.Kinds() {
		s := server.Start(t, k)
		const wrong = "hunter2-hunter2-hunter2"
		login := filepath.Join(t.TempDir(), "credentials")
		text := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", server.User, wrong)
		if err := os.WriteFile(login, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{s.Login, login} {
			var out lockedBuffer
			o := options(s, s.Endpoint())
			o.CredentialsFile, o.Log, o.PackBelow = file, zerolog.New(&out).Level(zerolog.DebugLevel), -1
			store := open(t, o)
			err := put(t.Context(), store, 1)
			if (err != nil) != (file == login) {
				t.Errorf("put: %v", err)
			}
			for _, text := range []string{out.String(), fmt.Sprint(err)} {
				for _, word := range []string{server.Secret, wrong, "Signature="} {
					if strings.Contains(text, word) {
						t.Errorf("%q is in %s", word, text)
					}
				}
			}
		}
		if err := os.Chmod(login, 0o644); err != nil {
			t.Fatal(err)
		}
		o := options(s, s.Endpoint())
		o.CredentialsFile = login
		if _, err := object.Open(t.Context(), o); err == nil {
			t.Error("credentials that everybody can read were taken")
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
