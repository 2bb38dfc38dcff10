package keyring

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock/penstock/scheduler/statefile"
)

func TestRotation(t *testing.T) {
	_, oldLine := New()
	_, newLine := New()
	before, err := Parse([]byte(oldLine + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	after, err := Parse([]byte("# keys\n\n" + newLine + "\n" + oldLine))
	if err != nil {
		t.Fatal(err)
	}
	if after.Current().ID() == before.Current().ID() {
		t.Error("the old key still writes")
	}
	k := after.Lookup(before.Current().ID())
	if k == nil {
		t.Fatal("the old key does not read")
	}
	sealer, _ := before.Current().AEAD("p", []byte("salt"))
	opener, _ := k.AEAD("p", []byte("salt"))
	nonce := make([]byte, sealer.NonceSize())
	sealed := sealer.Seal(nil, nonce, []byte("kv"), nil)
	if plain, err := opener.Open(nil, nonce, sealed, nil); err != nil || string(plain) != "kv" {
		t.Fatalf("%q, %v", plain, err)
	}
	for name, other := range map[string]func() (*Key, string, string){
		"purpose": func() (*Key, string, string) { return k, "q", "salt" },
		"salt":    func() (*Key, string, string) { return k, "p", "SALT" },
		"key":     func() (*Key, string, string) { return after.Current(), "p", "salt" },
	} {
		key, purpose, salt := other()
		aead, _ := key.AEAD(purpose, []byte(salt))
		if _, err := aead.Open(nil, nonce, sealed, nil); err == nil {
			t.Errorf("another %s opens it", name)
		}
	}
}

func TestNilRing(t *testing.T) {
	var r *Ring
	if r.Current() != nil || r.Lookup(ID{}) != nil {
		t.Error("a nil ring has keys")
	}
}

func TestBadFiles(t *testing.T) {
	_, line := New()
	for name, c := range map[string]struct{ text, want string }{
		"empty":  {"# nothing\n", "no key"},
		"short":  {"AAAA\n", "line 1: not a key"},
		"long":   {line + line, "line 1: longer"},
		"words":  {line + "\nhunter2-hunter2\n", "line 2: not a key"},
		"double": {line + "\n" + line, "line 2: the same key"},
	} {
		_, err := Parse([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), line)) {
			t.Errorf("%s: the error shows the line: %v", name, err)
		}
	}
}

func TestFileOfOthersIsRefused(t *testing.T) {
	_, line := New()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); !errors.Is(err, statefile.ErrInsecure) {
		t.Errorf("a key that everybody can read: %v", err)
	}
}

func TestKeyIsNotPrinted(t *testing.T) {
	r, line := New()
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if s := fmt.Sprintf(format, r.Current()); strings.Contains(s, line) || !strings.Contains(s, "key ") && len(s) > 60 {
			t.Errorf("%s shows %s", format, s)
		}
	}
}

func FuzzParse(f *testing.F) {
	_, line := New()
	f.Add([]byte(line))
	f.Add([]byte("#\n\n" + line + "\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := Parse(data); (err == nil) != (r != nil) || r != nil && r.Current() == nil {
			t.Fatalf("%v, %v", r, err)
		}
	})
}
