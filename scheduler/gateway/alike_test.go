package gateway

import (
	"fmt"
	"reflect"
	"testing"
)

// sameAsWalked scans one event after another one, and compares what comes of it with a walk over the second alone.
func sameAsWalked(t *testing.T, first, second []byte, h hide) (quick bool) {
	t.Helper()
	var c, fresh chunk
	c.scan(first, h)
	quick = c.last.fill(&chunk{}, second, h)
	is, want := c.scan(second, h), fresh.walk(second, h)
	if is != want {
		t.Fatalf("%s after %s: %v, a walk says %v", second, first, is, want)
	}
	if !is {
		return quick
	}
	if got, want := string(c.append(nil)), string(fresh.append(nil)); got != want {
		t.Fatalf("%s after %s: left is %s, a walk leaves %s", second, first, got, want)
	}
	c.last, fresh.last, c.cuts, fresh.cuts = alike{}, alike{}, nil, nil
	if !reflect.DeepEqual(c, fresh) {
		t.Fatalf("%s after %s:\n%+v\na walk finds\n%+v", second, first, c, fresh)
	}
	return quick
}

func TestEventsThatAreAlike(t *testing.T) {
	t.Parallel()
	chat := func(role, text, more, ids string) string {
		return fmt.Sprintf(`{"id":"x","choices":[{"index":0,"delta":{%s"content":%s},"logprobs":null,"finish_reason":null%s,"token_ids":%s}],"usage":null}`, role, text, more, ids)
	}
	usual := chat("", `" a"`, "", "[17]")
	for _, tt := range []struct {
		name, first, second string
		quick               bool
	}{
		{"other text and ids", usual, chat("", `" longer \" \u00e9\n"`, "", "[1,23456, 7]"), true},
		{"shorter", chat("", `" longer"`, "", "[1,23456]"), usual, true},
		{"with a role and a stop reason", chat(`"role":"assistant",`, `"a"`, `,"stop_reason":null`, "[1]"), chat(`"role":"assistant",`, `"bc"`, `,"stop_reason":null`, "[22]"), true},
		{"without ids", `{"choices":[{"text":"a"}]}`, `{"choices":[{"text":"bcd"}]}`, true},
		{"ids never known", chat("", `"a"`, "", "null"), chat("", `"bc"`, "", "null"), true},
		{"no text", usual, chat("", `""`, "", "[18]"), false},
		{"no ids", usual, chat("", `"b"`, "", "[]"), false},
		{"null ids", usual, chat("", `"b"`, "", "null"), false},
		{"ids that are no numbers", usual, chat("", `"b"`, "", "[01]"), false},
		{"ids that are no array", usual, chat("", `"b"`, "", "17"), false},
		{"text that is no string", usual, chat("", `7`, "", "[1]"), false},
		{"text without an end", usual, `{"id":"x","choices":[{"index":0,"delta":{"content":"a`, false},
		{"bad escape", usual, chat("", `"\x"`, "", "[1]"), false},
		{"a finish", usual, `{"id":"x","choices":[{"index":0,"delta":{"content":" a"},"logprobs":null,"finish_reason":"stop","token_ids":[17]}],"usage":null}`, false},
		{"usage", usual, `{"id":"x","choices":[],"usage":{"prompt_tokens":1}}`, false},
		{"another id", usual, `{"id":"y"` + usual[9:], false},
		{"cut off", usual, usual[:len(usual)-1], false},
		{"more after it", usual, usual + "}", false},
		{"ids twice", `{"choices":[{"text":"a","token_ids":[1],"token_ids":[2]}]}`, `{"choices":[{"text":"b","token_ids":[1],"token_ids":[3]}]}`, false},
		{"text twice", `{"choices":[{"text":"a","delta":{"content":""}}]}`, `{"choices":[{"text":"b","delta":{"content":""}}]}`, false},
		{"ids before the text", `{"choices":[{"token_ids":[1],"text":"a"}]}`, `{"choices":[{"token_ids":[22],"text":"bcd"}]}`, false},
		{"two choices", `{"choices":[{"text":"a"},{"text":"b"}]}`, `{"choices":[{"text":"cc"},{"text":"b"}]}`, false},
		{"tools", `{"choices":[{"delta":{"content":"a","tool_calls":[{}]}}]}`, `{"choices":[{"delta":{"content":"b","tool_calls":[{}]}}]}`, false},
		{"empty", usual, "", false},
	} {
		for _, h := range []hide{{}, {ids: true}, {ids: true, usage: true}} {
			if quick := sameAsWalked(t, []byte(tt.first), []byte(tt.second), h); quick != tt.quick {
				t.Errorf("%s: told by comparing: %v", tt.name, quick)
			}
		}
	}
}

// FuzzAlike: whatever event was scanned before, a scan finds what a walk does.
func FuzzAlike(f *testing.F) {
	f.Add([]byte(`{"choices":[{"delta":{"content":"a"},"token_ids":[1]}],"usage":null}`), []byte(`{"choices":[{"delta":{"content":"bc"},"token_ids":[12]}],"usage":null}`))
	f.Add([]byte(`{"choices":[{"text":"a","token_ids":[1],"token_ids":[2]}]}`), []byte(`{"choices":[{"text":"b","token_ids":[1],"token_ids":[3]}]}`))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		sameAsWalked(t, first, second, hide{ids: true})
	})
}

// BenchmarkScan is the cost of one token's event in a stream.
func BenchmarkScan(b *testing.B) {
	data := []byte(`{"id":"chatcmpl-8f14e45fceea167a5a36dedd4bea2543","object":"chat.completion.chunk","created":1760000000,"model":"m",` +
		`"choices":[{"index":0,"delta":{"content":" water"},"logprobs":null,"finish_reason":null,"token_ids":[15339]}]}`)
	h := hide{ids: true, usage: true}
	b.Run("walk", func(b *testing.B) {
		var c chunk
		for b.Loop() {
			c.walk(data, h)
		}
	})
	b.Run("alike", func(b *testing.B) {
		var c chunk
		for b.Loop() {
			c.scan(data, h)
		}
	})
}
