package rawjson

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestTextRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "s")
		quoted := AppendString(nil, []byte(s))
		var std string
		if err := json.Unmarshal(quoted, &std); err != nil || std != s {
			t.Fatalf("AppendString(%q) = %s, which encoding/json reads as %q, %v", s, quoted, std, err)
		}
		theirs, _ := json.Marshal(s)
		for _, q := range [][]byte{quoted, theirs} {
			if got, exact := AppendText(nil, q[1:len(q)-1]); string(got) != s || !exact {
				t.Fatalf("AppendText(%s) = %q, %v", q, got, exact)
			}
		}
	})
}

// FuzzText: what encoding/json accepts as a string is read as it reads it.
func FuzzText(f *testing.F) {
	for _, s := range []string{`a\u00e9b`, `\ud83d\ude00`, `\ud83d`, `\ude00\ud83d x`, `\\\"\/\b\f\n\r\t`, `\ud83d\u0041`, `\u`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got, exact := AppendText(nil, []byte(raw))
		var want string
		if json.Unmarshal([]byte(`"`+raw+`"`), &want) != nil || !utf8.ValidString(raw) {
			return
		}
		if string(got) != want {
			t.Fatalf("AppendText(%s) = %q, want %q", raw, got, want)
		}
		if exact && strings.ContainsRune(want, utf8.RuneError) && !strings.ContainsRune(raw, utf8.RuneError) &&
			!strings.Contains(strings.ToLower(raw), `\ufffd`) {
			t.Fatalf("AppendText(%s) lost something and called it exact", raw)
		}
	})
}

func TestIterSkipsAndDescends(t *testing.T) {
	b := []byte(`{"a":[1,[2],{"x":"]"}],"b":{"c":null},"d":"e"}`)
	var seen []string
	it := Members(b, 0)
	for it.Next() {
		switch string(it.Key()) {
		case "a":
			el := Elements(b, it.Value)
			for el.Next() {
				at := el.Value
				seen = append(seen, string(b[at:el.Skip()]))
			}
			it.Resume(el.End())
		case "b":
			m := Members(b, it.Value)
			for m.Next() {
				seen = append(seen, "b."+string(m.Key()))
				if !IsNull(b, m.Value) {
					t.Error("b.c is null")
				}
			}
			it.Resume(m.End())
		}
	}
	if got := strings.Join(seen, " "); got != `1 [2] {"x":"]"} b.c` || it.End() != len(b) {
		t.Errorf("saw %s, ended at %d of %d", got, it.End(), len(b))
	}
	for _, bad := range []string{`{"a":1`, `{"a"1}`, `{"a":}`, `{"a":1,}`, `[1`, `[1,]`, `{a:1}`, ``, `{"a":1]`} {
		it := Members([]byte(bad), 0)
		for it.Next() {
		}
		if it.End() != -1 {
			t.Errorf("%s ended well, at %d", bad, it.End())
		}
	}
}

// FuzzIter: walking never leaves the slice, and what Check accepts is walked to its end.
func FuzzIter(f *testing.F) {
	f.Add([]byte(`{"a":[1,{"b":2}],"c":"d"}`))
	f.Add([]byte(`{"a":1,}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || b[0] != '{' {
			return
		}
		it := Members(b, 0)
		for it.Next() {
			_ = it.Key()
		}
		if Check(b, skipDepth) == nil && space(b, it.End()) != len(b) {
			t.Fatalf("%q: ended at %d of %d", b, it.End(), len(b))
		}
	})
}
