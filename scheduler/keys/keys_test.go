package keys

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/penstock/penstock/scheduler/statefile"
)

var start = time.Unix(1_700_000_000, 0).UTC()

func fixed() time.Time { return start }

func free() error { return nil }

func newStore(t testing.TB) *Store {
	t.Helper()
	s, err := open(filepath.Join(t.TempDir(), "keys"), fixed, free)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// create returns the ID and the secret of a new key.
func create(t testing.TB, s *Store, o CreateOptions) (id, secret string) {
	t.Helper()
	key, secret, err := s.Create(o)
	if err != nil {
		t.Fatal(err)
	}
	return key.Id, secret
}

func TestKeyLives(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	o := CreateOptions{
		Name: "alice", Tenant: "physics", Models: []string{"qwen*"},
		RequestsPerMinute: 60, TokensPerMinute: 1000, Concurrency: 4, TTL: time.Hour,
	}
	key, secret, err := s.Create(o)
	if err != nil {
		t.Fatal(err)
	}
	if len(key.Hash) != 0 || !strings.HasPrefix(secret, "psk-"+key.Id+"-") || len(secret) != 4+8+1+43 {
		t.Errorf("key %v, secret of %d characters", key, len(secret))
	}
	if key.Tenant != "physics" || key.RequestsPerMinute != 60 || key.TokensPerMinute != 1000 || key.Concurrency != 4 ||
		!key.ExpiresAt.AsTime().Equal(start.Add(time.Hour)) || !key.CreatedAt.AsTime().Equal(start) {
		t.Errorf("got %v", key)
	}
	again, err := open(s.dir, fixed, free)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{s, again} {
		set, _ := s.Snapshot()
		got, err := Verify(set, secret, start)
		if err != nil || got.Id != key.Id || got.Name != "alice" {
			t.Errorf("verified as %v, %v", got, err)
		}
		if list := s.List(); len(list) != 1 || !proto.Equal(list[0], key) {
			t.Errorf("listed %v", list)
		}
	}
	if id, err := s.Revoke("alice"); id != key.Id || err != nil {
		t.Errorf("revoked %s, %v", id, err)
	}
	set, _ := s.Snapshot()
	if _, err := Verify(set, secret, start); !errors.Is(err, ErrUnknown) {
		t.Errorf("revoked: %v", err)
	}
	if again, err = open(s.dir, fixed, free); err != nil || len(again.List()) != 0 {
		t.Errorf("it comes back: %v", err)
	}
}

// TestSecretIsNowhere: whoever reads the folder cannot use a key.
func TestSecretIsNowhere(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id, secret := create(t, s, CreateOptions{Name: "alice"})
	s.Used(id, start)
	if err := s.FlushUsed(); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(s.dir)
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		data, err := statefile.ReadPrivate(filepath.Join(s.dir, f.Name()), maxFile)
		if err != nil {
			t.Error(err)
		}
		if random := secret[len(secret)-secretChars:]; bytes.Contains(data, []byte(random)) {
			t.Errorf("%s holds the secret", f.Name())
		}
	}
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	create(t, s, CreateOptions{Name: "alice"})
	for _, c := range []struct {
		o    CreateOptions
		want error
	}{
		{CreateOptions{}, ErrInvalid},
		{CreateOptions{Name: strings.Repeat("x", 65)}, ErrInvalid},
		{CreateOptions{Name: "a\nb"}, ErrInvalid},
		{CreateOptions{Name: "bob", Tenant: "a b"}, ErrInvalid},
		{CreateOptions{Name: "bob", Tenant: "a\r\nX-Evil: 1"}, ErrInvalid},
		{CreateOptions{Name: "bob", TTL: -1}, ErrInvalid},
		{CreateOptions{Name: "bob", Models: []string{""}}, ErrInvalid},
		{CreateOptions{Name: "alice"}, ErrTaken},
	} {
		if _, secret, err := s.Create(c.o); !errors.Is(err, c.want) || secret != "" {
			t.Errorf("%+v: %v, want %v", c.o, err, c.want)
		}
	}
	if n := len(s.List()); n != 1 {
		t.Errorf("%d keys", n)
	}
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	a, _ := create(t, s, CreateOptions{Name: "alice"})
	b, _ := create(t, s, CreateOptions{Name: "bob"})
	c, _ := create(t, s, CreateOptions{Name: a[:3]}) // named as another's ID begins
	for _, try := range []struct {
		what, id string
		err      error
	}{
		{"nobody", "", ErrNotFound},
		{"", "", ErrNotFound},
		{a[:3], c, nil}, // a name goes before the start of an ID
		{a[:6], a, nil},
		{a, "", ErrNotFound},
		{b, b, nil},
	} {
		if id, err := s.Revoke(try.what); id != try.id || !errors.Is(err, try.err) {
			t.Errorf("revoke %q: %q, %v; want %q, %v", try.what, id, err, try.id, try.err)
		}
	}
	s.keys["aaaaaaa1"], s.keys["aaaaaaa2"] = newTestKey("aaaaaaa1", "k1"), newTestKey("aaaaaaa2", "k2")
	if _, err := s.Revoke("aaaa"); !errors.Is(err, ErrAmbiguous) || !strings.Contains(err.Error(), "aaaaaaa1, aaaaaaa2") {
		t.Errorf("ambiguous: %v", err)
	}
}

func TestSnapshotTellsOfChanges(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	set, changed := s.Snapshot()
	id, _ := create(t, s, CreateOptions{Name: "alice"})
	<-changed
	if len(set) != 0 {
		t.Error("a snapshot has changed")
	}
	set, changed = s.Snapshot()
	s.Used(id, start) // is no change for gateways
	select {
	case <-changed:
		t.Error("use counts as a change")
	default:
	}
	if _, err := s.Revoke(id); err != nil {
		t.Fatal(err)
	}
	<-changed
	if len(set) != 1 {
		t.Error("a snapshot has changed")
	}
}

func TestUsed(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id, _ := create(t, s, CreateOptions{Name: "alice"})
	s.Used(id, start.Add(time.Minute))
	s.Used(id, start) // records come late
	s.Used("nobody00", start)
	if err := s.FlushUsed(); err != nil {
		t.Fatal(err)
	}
	again, err := open(s.dir, fixed, free)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{s, again} {
		if at := s.List()[0].LastUsedAt.AsTime(); !at.Equal(start.Add(time.Minute)) {
			t.Errorf("last used at %s", at)
		}
	}
	if err := os.WriteFile(filepath.Join(s.dir, usedFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err = open(s.dir, fixed, free); err != nil || len(again.List()) != 1 || len(again.Broken()) != 0 {
		t.Errorf("a damaged file of last use: %v", err)
	}
}

func TestBrokenFilesAreNamed(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	alice, _ := create(t, s, CreateOptions{Name: "alice"})
	_, secret := create(t, s, CreateOptions{Name: "bob"})
	file := filepath.Join(s.dir, alice+suffix)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func() error{
		"cut off": func() error { return os.Truncate(file, 30) },
		"empty":   func() error { return os.Truncate(file, 0) },
		"of another ID": func() error {
			return os.WriteFile(file, bytes.ReplaceAll(good, []byte(alice), []byte("zzzzzzzz")), 0o600)
		},
		"without a hash": func() error {
			return os.WriteFile(file, bytes.ReplaceAll(good, []byte(`"hash"`), []byte(`"hush"`)), 0o600)
		},
		"readable by all": func() error { return errors.Join(os.WriteFile(file, good, 0o600), os.Chmod(file, 0o644)) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		again, err := open(s.dir, fixed, free)
		if err != nil {
			t.Fatal(err)
		}
		if broken := again.Broken(); len(broken) != 1 || !strings.Contains(broken[0], file) {
			t.Errorf("%s: broken are %v", name, broken)
		}
		set, _ := again.Snapshot()
		if _, err := Verify(set, secret, start); err != nil || len(set) != 1 {
			t.Errorf("%s: the other key: %v", name, err)
		}
	}
	if err := errors.Join(os.Chmod(file, 0o600), os.WriteFile(file, []byte(`{"format":2}`), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := open(s.dir, fixed, free); !errors.Is(err, errNewer) {
		t.Errorf("newer format: %v", err)
	}
}

func TestOpenRefusesAnOpenFolder(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	if err := os.Chmod(s.dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(s.dir); !errors.Is(err, statefile.ErrInsecure) {
		t.Errorf("got %v", err)
	}
}

func TestFullDiskChangesNothing(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id, secret := create(t, s, CreateOptions{Name: "alice"})
	if err := os.Rename(s.dir, s.dir+"-away"); err != nil { // nothing can be written or removed
		t.Fatal(err)
	}
	if _, secret, err := s.Create(CreateOptions{Name: "bob"}); err == nil || secret != "" {
		t.Error("a key that is on no disk")
	}
	if _, err := s.Revoke(id); err == nil {
		t.Error("revoked in memory alone: it would come back")
	}
	set, _ := s.Snapshot()
	if _, err := Verify(set, secret, start); err != nil || len(set) != 1 {
		t.Errorf("%d keys, %v", len(set), err)
	}
}

func TestTogether(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := string(rune('a' + i))
			id, secret := create(t, s, CreateOptions{Name: name})
			set, _ := s.Snapshot()
			if _, err := Verify(set, secret, start); err != nil {
				t.Error(err)
			}
			s.Used(id, start)
			s.List()
			if err := s.FlushUsed(); err != nil {
				t.Error(err)
			}
			if _, err := s.Revoke(name); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(s.List()) != 0 {
		t.Errorf("left: %v", s.List())
	}
}

// TestFence: a controller that was paused while another one took over writes no keys any more.
func TestFence(t *testing.T) {
	t.Parallel()
	lost := errors.New("another controller has taken over")
	var looks, good int // the fence gives way after so many looks
	s, err := open(filepath.Join(t.TempDir(), "keys"), fixed, func() error {
		if looks++; looks > good {
			return lost
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	allow := func(n int) { looks, good = 0, n }
	files := func() (names []string) {
		entries, err := os.ReadDir(s.dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	for n := range 2 { // lost before the write, and during it
		allow(n)
		if _, secret, err := s.Create(CreateOptions{Name: "late"}); !errors.Is(err, lost) || secret != "" {
			t.Errorf("create, lost after %d looks: %v", n, err)
		}
		if left := files(); len(left) != 0 || len(s.List()) != 0 {
			t.Errorf("create, lost after %d looks: left %v, %v", n, left, s.List())
		}
	}
	allow(2)
	id, _ := create(t, s, CreateOptions{Name: "early"})
	s.Used(id, start.Add(time.Minute))
	allow(0)
	if err := s.FlushUsed(); !errors.Is(err, lost) {
		t.Errorf("flush: %v", err)
	}
	if _, err := s.Revoke(id); !errors.Is(err, lost) || len(files()) != 1 {
		t.Errorf("revoke: %v, files %v", err, files())
	}
	allow(1)
	if _, err := s.Revoke(id); !errors.Is(err, lost) || len(s.List()) != 1 {
		t.Errorf("revoke, lost during it: %v", err)
	}
	allow(2)
	if _, err := s.Revoke(id); err != nil {
		t.Errorf("revoke again: %v", err)
	}
}
