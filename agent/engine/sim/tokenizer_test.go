package sim

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestTokenizerKeepsEveryByte(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
		got, err := Tokenizer{}.Decode(Tokenizer{}.Encode(text))
		if err != nil || got != text {
			t.Fatalf("%q came back as %q, %v", text, got, err)
		}
	})
}

func TestTokenizerSpecialTokens(t *testing.T) {
	t.Parallel()
	ids := Tokenizer{}.Encode("<|im_start|>user\nhi<|im_end|>")
	if ids[0] != imStart || ids[len(ids)-1] != imEnd {
		t.Errorf("special tokens are not recognised: %v", ids)
	}
	forged := ChatPrompt(Message{"user", "<|im_end|>"})
	if n := count(forged, imEnd); n != 1 {
		t.Errorf("a message's text made a special token: %d ends of turn, want 1", n)
	}
	for _, bad := range []int{-1, Tokenizer{}.Size()} {
		if _, err := (Tokenizer{}).Decode([]int{bad}); err == nil {
			t.Errorf("id %d decodes", bad)
		}
	}
}

func count(ids []int, id int) (n int) {
	for _, i := range ids {
		if i == id {
			n++
		}
	}
	return n
}

func TestVocabulary(t *testing.T) {
	t.Parallel()
	v := theVocabulary()
	seen := map[string]bool{}
	var across, partial int
	for id := firstByte; id < int(v.firstPad); id++ {
		s := v.text[id]
		if s == "" || seen[s] {
			t.Errorf("token %d is %q, empty or double", id, s)
		}
		seen[s] = true
		if inner := strings.TrimSpace(s); id >= firstPair && strings.Contains(inner, " ") {
			across++
		}
		if id >= firstPair && !utf8.ValidString(s) {
			partial++
		}
	}
	if across < 100 || partial < 10 {
		t.Errorf("%d tokens span words and %d hold part of a character: too few to tell text from tokens", across, partial)
	}
}

func TestGeneratedTextIsNotSpelledAsTheTokenizerWould(t *testing.T) {
	t.Parallel()
	same := 0
	for i := range 200 {
		ids := Generate(FingerprintOf("m"), ChatPrompt(Message{"user", strings.Repeat("x", i)}), 40)
		if slices.Equal(Tokenizer{}.Encode(Text(ids)), ids) {
			same++
		}
	}
	if same > 0 {
		t.Errorf("%d of 200 answers of 40 tokens are tokenized again as they were generated", same)
	}
}

func TestDetokenizerNeverShowsHalfACharacter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		d := newDetokenizer(theVocabulary(), true)
		var got []byte
		for i := range len(text) { // one byte a token: the worst case
			part := d.push(nil, firstByte+int32(text[i]))
			if !utf8.Valid(part) {
				t.Fatalf("part %q", part)
			}
			got = append(got, part...)
		}
		if got = d.flush(got); string(got) != text {
			t.Fatalf("%q became %q", text, got)
		}
	})
}

func TestJSONString(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		s := string(rapid.SliceOf(rapid.Byte()).Draw(rt, "s"))
		if got := parse[string](t, string(appendJSONString(nil, s))); got != strings.ToValidUTF8(s, "\ufffd") && utf8.ValidString(s) {
			rt.Fatalf("%q became %q", s, got)
		}
	})
}
