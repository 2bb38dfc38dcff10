package rawjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestEdit(t *testing.T) {
	for _, tc := range []struct {
		in    string
		edits []Edit
		want  string
	}{
		{`{}`, []Edit{{"a", []byte("1")}}, `{"a":1}`},
		{` { } `, []Edit{{"a", []byte("1")}, {"b", nil}}, ` {"a":1 } `},
		{`{"a":1}`, []Edit{{"a", nil}}, `{}`},
		{`{ "a" : 1 , "b" : 2 }`, []Edit{{"a", nil}}, `{ "b" : 2 }`},
		{`{ "a" : 1 , "b" : 2 }`, []Edit{{"b", nil}}, `{ "a" : 1 }`},
		{`{"a":1,"b":2,"c":3}`, []Edit{{"b", nil}, {"d", []byte("4")}}, `{"a":1,"c":3,"d":4}`},
		{`{"a":1,"b":2}`, []Edit{{"a", nil}, {"b", nil}}, `{}`},
		{`{"a":1,"b":2}`, []Edit{{"a", nil}, {"b", nil}, {"c", []byte(`"x"`)}}, `{"c":"x"}`},
		{`{"n":12345678901234567890.10,"a":[ 1 ]}`, []Edit{{"a", []byte("[]")}}, `{"n":12345678901234567890.10,"a":[]}`},
		{`{"\u0061":1}`, []Edit{{"a", []byte("2")}}, `{"\u0061":2}`},
		{`{"a":1}`, []Edit{{"b", []byte("2")}, {"b", []byte("3")}}, `{"a":1,"b":2}`},
	} {
		o, err := Parse([]byte(tc.in), 8)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(o.Edit(nil, tc.edits...)); got != tc.want {
			t.Errorf("Edit(%s) = %s, want %s", tc.in, got, tc.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	many := "{"
	for i := range MaxFields + 1 {
		many += fmt.Sprintf(`"f%d":%d,`, i, i)
	}
	for in, want := range map[string]string{
		`[1]`:                            "an object is wanted",
		`{"model":"a","model":"b"}`:      `the field "model" stands here a second time`,
		`{"model":"a","mod\u0065l":"b"}`: `the field "model" stands here a second time`,
		many[:len(many)-1] + "}":         "more than 512 fields",
	} {
		var se *SyntaxError
		if _, err := Parse([]byte(in), 8); !errors.As(err, &se) || !strings.Contains(se.What, want) {
			t.Errorf("Parse(%.40s) = %v, want %q", in, err, want)
		}
	}
}

// TestEditKeepsTheRest: whatever is edited, all other fields keep their bytes and order, and the result says what was asked.
func TestEditKeepsTheRest(t *testing.T) {
	name := rapid.SampledFrom([]string{"a", "b", "c", "model", "stream", "max_tokens", "\u00e9"})
	ws := rapid.SampledFrom([]string{"", " ", "\n\t", "  "})
	val := rapid.SampledFrom([]string{`1`, `-0.50`, `1e400`, `"x\"}"`, `[1, {"a":2}]`, `{"b":[]}`, `null`, `12345678901234567890123`, `"é\u00e9"`})
	rapid.Check(t, func(t *rapid.T) {
		var in strings.Builder
		in.WriteString(ws.Draw(t, "ws") + "{" + ws.Draw(t, "ws"))
		names := rapid.SliceOfDistinct(name, rapid.ID[string]).Draw(t, "names")
		pieces := map[string]string{}
		for i, n := range names {
			if i > 0 {
				in.WriteString("," + ws.Draw(t, "ws"))
			}
			pieces[n] = `"` + n + `"` + ws.Draw(t, "ws") + ":" + ws.Draw(t, "ws") + val.Draw(t, "val")
			in.WriteString(pieces[n] + ws.Draw(t, "ws"))
		}
		in.WriteString("}" + ws.Draw(t, "ws"))

		var edits []Edit
		for _, n := range rapid.SliceOfDistinct(name, rapid.ID[string]).Draw(t, "edits") {
			e := Edit{Name: n}
			if rapid.Bool().Draw(t, "set") {
				e.Value = []byte(val.Draw(t, "new"))
			}
			edits = append(edits, e)
		}

		o, err := Parse([]byte(in.String()), 8)
		if err != nil {
			t.Fatalf("%s: %v", in.String(), err)
		}
		out := o.Edit(nil, edits...)
		after, err := Parse(out, 8)
		if err != nil {
			t.Fatalf("%s became %s: %v", in.String(), out, err)
		}
		at := 0
		for _, n := range names {
			if find(edits, []byte(n)) >= 0 {
				continue
			}
			i := bytes.Index(out[at:], []byte(pieces[n]))
			if i < 0 {
				t.Fatalf("%s became %s: %s was changed or moved", in.String(), out, pieces[n])
			}
			at += i + len(pieces[n])
		}
		for _, e := range edits {
			if got := after.Get(e.Name); !bytes.Equal(got, e.Value) {
				t.Fatalf("%s became %s: %s is %s, want %s", in.String(), out, e.Name, got, e.Value)
			}
		}
		for _, f := range after.Fields {
			if !slices.Contains(names, string(f.Name)) && find(edits, f.Name) < 0 {
				t.Fatalf("%s became %s: where does %s come from?", in.String(), out, f.Name)
			}
		}
	})
}

// FuzzEdit: an edited object is still an object, and a field that was not named is as it was.
func FuzzEdit(f *testing.F) {
	f.Add([]byte(`{"model":"m","max_tokens":3,"x":{"y":[1,2]}}`), "model", `"n"`)
	f.Add([]byte(`{ "a" : 1 , "b" : 2 }`), "b", "")
	f.Fuzz(func(t *testing.T, b []byte, name, value string) {
		o, err := Parse(b, 100)
		if err != nil || strings.ContainsFunc(name, func(r rune) bool { return r < 0x20 || r == '"' || r == '\\' || r == 0xfffd }) {
			return
		}
		e := Edit{Name: name}
		if json.Valid([]byte(value)) && Check([]byte(value), 50) == nil {
			e.Value = []byte(value)
		}
		after, err := Parse(o.Edit(nil, e), 200)
		var se *SyntaxError
		if errors.As(err, &se) && strings.Contains(se.What, "more than") {
			return
		}
		if err != nil {
			t.Fatalf("%q with %s=%q: %v", b, name, value, err)
		}
		for _, f := range o.Fields {
			if string(f.Name) != name && !bytes.Equal(after.Get(string(f.Name)), b[f.Value:f.ValueEnd]) {
				t.Fatalf("%q: field %q changed", b, f.Name)
			}
		}
	})
}
