package keys

import (
	"bytes"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

func secretOf(id string) string { return prefix + id + "-" + strings.Repeat(id, 6)[:secretChars] }

func newTestKey(id, name string) *apiv1.Key {
	hash := hashOf(secretOf(id))
	return &apiv1.Key{Id: id, Name: name, Hash: hash[:]}
}

// testSet has a key without an end, one with an end, and one whose hash was lost.
func testSet() Set {
	set := Set{}
	for _, id := range []string{"forever1", "limited1", "nohash01"} {
		set[id] = newTestKey(id, id)
	}
	set["limited1"].ExpiresAt = timestamppb.New(start)
	set["nohash01"].Hash = nil
	return set
}

func TestVerify(t *testing.T) {
	t.Parallel()
	forever, limited := secretOf("forever1"), secretOf("limited1")
	for _, c := range []struct {
		name, presented string
		at              time.Time
		want            error
	}{
		{"good", forever, start, nil},
		{"good before its end", limited, start.Add(-time.Second), nil},
		{"at its end", limited, start, ErrExpired},
		{"none", "", start, ErrMissing},
		{"another secret", forever[:len(forever)-1] + "X", start, ErrUnknown},
		{"another key's secret", strings.Replace(forever, "forever1", "limited1", 1), start.Add(-time.Second), ErrUnknown},
		{"wrong secret of one that has ended", limited[:len(limited)-1] + "X", start, ErrUnknown},
		{"no such key", secretOf("nobody01"), start, ErrUnknown},
		{"key without a hash", secretOf("nohash01"), start, ErrUnknown},
		{"ID alone", "psk-forever1", start, ErrUnknown},
		{"short", forever[:len(forever)-1], start, ErrUnknown},
		{"long", forever + "s", start, ErrUnknown},
		{"with a space", " " + forever[1:], start, ErrUnknown},
		{"other prefix", "sk--" + forever[4:], start, ErrUnknown},
		{"another separator", strings.Replace(forever, "1-", "1_", 1), start, ErrUnknown},
		{"huge", strings.Repeat("x", 1<<20), start, ErrUnknown},
	} {
		key, err := Verify(testSet(), c.presented, c.at)
		if !errors.Is(err, c.want) || (key != nil) != (c.want == nil) {
			t.Errorf("%s: %v, %v; want %v", c.name, key, err, c.want)
		}
	}
	if _, err := Verify(nil, forever, start); !errors.Is(err, ErrUnknown) {
		t.Errorf("no keys at all: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	for _, s := range []string{secretOf("forever1"), secretOf("limited1"), secretOf("nohash01"), "", "psk-", "psk-forever1-", "psk-\xff"} {
		f.Add(s)
	}
	set := testSet()
	f.Fuzz(func(t *testing.T, presented string) {
		key, err := Verify(set, presented, start.Add(-time.Second))
		if (err == nil) != (key != nil) || err == nil && presented != secretOf(key.Id) {
			t.Errorf("%q is %v, %v", presented, key, err)
		}
		if r := Redact(presented); r != "(not a key)" && r != presented[:len(prefix)+idBytes]+"-…" {
			t.Errorf("%q is shown as %q", presented, r)
		}
	})
}

// TestComparesInConstantTime looks at the source: a hash must not be compared with what stops at the first difference.
func TestComparesInConstantTime(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile("match.go")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(src, []byte("subtle.ConstantTimeCompare(hash[:], key.GetHash())")) || bytes.Contains(src, []byte("bytes.Equal")) {
		t.Error("Verify does not compare hashes in constant time")
	}
}

func TestAllows(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		globs []string
		model string
		want  bool
	}{
		{nil, "anything", true},
		{[]string{"qwen"}, "qwen", true},
		{[]string{"qwen"}, "qwen2", false},
		{[]string{"qwen*"}, "qwen", true},
		{[]string{"qwen*"}, "qwen2.5/7b", true},
		{[]string{"qwen*"}, "Qwen2", false},
		{[]string{"*/Qwen3-?B"}, "org/Qwen3-8B", true},
		{[]string{"*/Qwen3-?B"}, "org/Qwen3-32B", false},
		{[]string{"a", "b"}, "b", true},
		{[]string{"*"}, "", true},
		{[]string{"?"}, "", false},
		{[]string{"*a*b*"}, "xxaxxbxx", true},
		{[]string{"*a*b"}, "xxaxxbxx", false},
		{[]string{"[a]"}, "a", false}, // no classes
	} {
		if got := Allows(&apiv1.Key{Models: c.globs}, c.model); got != c.want {
			t.Errorf("%v on %q: %v", c.globs, c.model, got)
		}
	}
}

// TestGlobIsARegexp compares with the library's regular expressions.
func TestGlobIsARegexp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		glob, s := rapid.StringMatching(`[ab*?]{0,8}`).Draw(t, "glob"), rapid.StringMatching(`[ab]{0,10}`).Draw(t, "s")
		want := regexp.MustCompile("^" + strings.NewReplacer("*", ".*", "?", ".").Replace(glob) + "$").MatchString(s)
		if got := matches(glob, s); got != want {
			t.Fatalf("%q on %q: %v, want %v", glob, s, got, want)
		}
	})
}

func TestRedact(t *testing.T) {
	t.Parallel()
	if got := Redact(secretOf("forever1")); got != "psk-forever1-…" {
		t.Errorf("got %q", got)
	}
	if got := Redact("hunter2"); strings.Contains(got, "hunter2") {
		t.Errorf("got %q", got)
	}
}

func BenchmarkVerify(b *testing.B) {
	set, secret := testSet(), secretOf("forever1")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Verify(set, secret, start); err != nil {
			b.Fatal(err)
		}
	}
}
