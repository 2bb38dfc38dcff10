package rawjson

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestCheckNamesTheByte(t *testing.T) {
	for _, tc := range []struct {
		in     string
		offset int
		what   string
	}{
		{``, 0, "a value is missing"},
		{`{"a":1,}`, 7, "field name"},
		{`{"a" 1}`, 5, "colon"},
		{`[1 2]`, 3, "comma"},
		{`{"a":01}`, 6, "comma"},
		{`[1.]`, 3, "point"},
		{`[1e]`, 3, "exponent"},
		{`[-]`, 2, "digits"},
		{`["a` + "\n" + `"]`, 3, "control"},
		{`["\x"]`, 2, "escape"},
		{`["\u12g4"]`, 2, "escape"},
		{`["abc`, 1, "no end"},
		{`nul`, 0, "begin"},
		{`NaN`, 0, "begin"},
		{`{} {}`, 3, "follows"},
		{"[\"\xff\"]", 2, "UTF-8"},
		{`[[[[[]]]]]`, 4, "too deep"},
	} {
		err := Check([]byte(tc.in), 4)
		var se *SyntaxError
		if !errors.As(err, &se) || se.Offset != tc.offset || !strings.Contains(se.What, tc.what) {
			t.Errorf("Check(%q) = %v, want byte %d, %q", tc.in, err, tc.offset, tc.what)
		}
	}
	if err := Check([]byte(" [[[[1]]]] "), 4); err != nil {
		t.Errorf("four levels of four: %v", err)
	}
}

// FuzzCheck compares with encoding/json, which takes the same grammar but for its own depth limit and bad UTF-8.
func FuzzCheck(f *testing.F) {
	for _, s := range []string{
		`{"a":[1,-0.5e+3,true,false,null,"x\u00e9\n"]}`, `"12345678\"901234567890"`, `[1,]`, `{"a":1 "b"}`, `-`, `1e`, `0x1`,
		"\"\x7f\xc3\xa9\"", "\"\x01\"", `"aaaaaaaaaaaaaaa` + "\x1f" + `"`, `["\ud83d\ude00"]`, ` { } `,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		err := Check(b, 1000)
		var se *SyntaxError
		if errors.As(err, &se) && (se.What == "not UTF-8" || se.What == "nested too deep") {
			return
		}
		if want := json.Valid(b); want != (err == nil) {
			t.Fatalf("Check(%q) = %v, encoding/json says valid = %v", b, err, want)
		}
		if end := Skip(b, space(b, 0)); err == nil && space(b, end) != len(b) {
			t.Fatalf("Skip(%q) ends at %d of %d", b, end, len(b))
		}
	})
}

func BenchmarkCheckLongString(b *testing.B) {
	body := []byte(`{"image":"` + strings.Repeat("iVBORw0KGgoAAAANSUhEUgAA", 1<<15) + `"}`)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if err := Check(body, 8); err != nil {
			b.Fatal(err)
		}
	}
}
