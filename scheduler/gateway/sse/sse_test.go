package sse

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func events(t *testing.T, src io.Reader, buf, max int) (all []string, rest string, err error) {
	t.Helper()
	s := NewSplitter(make([]byte, buf), max)
	for {
		_, err := s.Fill(src)
		for e := s.Next(); e != nil; e = s.Next() {
			all = append(all, string(e))
		}
		if err != nil {
			return all, string(s.Rest()), err
		}
	}
}

func TestSplit(t *testing.T) {
	in := "data: 1\n\n: comment\r\n\r\nevent: x\ndata: 2\n\n\ndata: \r \n\ndata: cut"
	want := []string{"data: 1\n\n", ": comment\r\n\r\n", "event: x\ndata: 2\n\n", "\n", "data: \r \n\n"}
	for _, buf := range []int{0, 1, 7, 4096} {
		got, rest, err := events(t, iotest.OneByteReader(strings.NewReader(in)), buf, 1<<20)
		if strings.Join(got, "|") != strings.Join(want, "|") || rest != "data: cut" || err != io.EOF {
			t.Errorf("buffer of %d: %q, rest %q, %v", buf, got, rest, err)
		}
	}
}

func TestTooLong(t *testing.T) {
	got, _, err := events(t, strings.NewReader("data: 1\n\ndata: "+strings.Repeat("x", 10_000)+"\n\n"), 0, 5000)
	if !errors.Is(err, ErrTooLong) || len(got) != 1 {
		t.Errorf("got %d events, %v", len(got), err)
	}
}

func TestData(t *testing.T) {
	for _, tc := range []struct {
		event, want string
		ok          bool
	}{
		{"data: {\"a\":1}\n\n", `{"a":1}`, true},
		{"data:x\r\n\r\n", "x", true},
		{"data:\n\n", "", true},
		{"data:  two\n\n", " two", true},
		{"event: e\ndata: y\nid: 1\n\n", "y", true},
		{"data: a\ndata: b\n\n", "", false},
		{": keep-alive\n\n", "", false},
		{"\n", "", false},
	} {
		start, end, ok := Data([]byte(tc.event))
		if ok != tc.ok || ok && tc.event[start:end] != tc.want {
			t.Errorf("Data(%q) = %d, %d, %v", tc.event, start, end, ok)
		}
	}
}

// FuzzSplit: however the bytes are cut on their way, the events are the same, and nothing is lost.
func FuzzSplit(f *testing.F) {
	f.Add([]byte("data: 1\n\ndata: 2\r\n\r\n"), 3)
	f.Add([]byte("\n\r\n\r\r\n\n"), 1)
	f.Fuzz(func(t *testing.T, b []byte, size int) {
		whole, rest, _ := events(t, bytes.NewReader(b), len(b)+1, len(b)+1)
		if got := strings.Join(whole, "") + rest; got != string(b) {
			t.Fatalf("%q became %q", b, got)
		}
		for _, e := range whole {
			if start, end, ok := Data([]byte(e)); ok && (start > end || end > len(e) || bytes.Contains([]byte(e[start:end]), []byte("\n"))) {
				t.Fatalf("data of %q: %d to %d", e, start, end)
			}
		}
		parts, rest2, _ := events(t, iotest.OneByteReader(bytes.NewReader(b)), min(max(size, 0), 64), len(b)+1)
		if strings.Join(parts, "|") != strings.Join(whole, "|") || rest2 != rest {
			t.Fatalf("%q: %q at once, %q byte by byte", b, whole, parts)
		}
	})
}

func BenchmarkNext(b *testing.B) {
	stream := []byte(strings.Repeat("data: "+strings.Repeat("x", 250)+"\n\n", 16))
	s := NewSplitter(make([]byte, 8192), 1<<20)
	b.SetBytes(int64(len(stream)))
	b.ReportAllocs()
	r := bytes.NewReader(stream)
	for b.Loop() {
		r.Reset(stream)
		for {
			_, err := s.Fill(r)
			for s.Next() != nil {
			}
			if err != nil {
				break
			}
		}
	}
}
