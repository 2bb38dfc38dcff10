package sim

import (
	"fmt"
	"strings"
)

// Tokenizer is the simulated model's tokenizer: greedy longest match over a byte-level vocabulary. The zero value is
// ready. Every byte string survives Encode and Decode; token ids do not survive Decode and Encode, by design.
type Tokenizer struct{}

// Encode splits text into token ids. Names of special tokens in the text become those tokens, as in Hugging Face
// tokenizers.
func (Tokenizer) Encode(text string) []int {
	return ints(theVocabulary().encodeSpecial(nil, text))
}

// Decode joins the bytes of tokens. Special tokens give their name, image patches nothing.
func (Tokenizer) Decode(ids []int) (string, error) {
	v := theVocabulary()
	var b strings.Builder
	for i, id := range ids {
		if id < 0 || id >= v.size() {
			return "", fmt.Errorf("decode token %d of %d: id %d is outside the vocabulary of %d tokens", i+1, len(ids), id, v.size())
		}
		b.WriteString(v.name(int32(id)))
	}
	return b.String(), nil
}

// Size is the number of token ids.
func (Tokenizer) Size() int { return theVocabulary().size() }

// name is a token's text, or the name of a special token.
func (v *vocabulary) name(id int32) string {
	if s, ok := specials[id]; ok {
		return s
	}
	return v.text[id]
}

// encode appends the tokens of plain text to ids.
func (v *vocabulary) encode(ids []int32, text string) []int32 {
	for text != "" {
		id := v.longest(text)
		ids = append(ids, id)
		text = text[len(v.text[id]):]
	}
	return ids
}

// encodeSpecial is encode, with the names of special tokens as such.
func (v *vocabulary) encodeSpecial(ids []int32, text string) []int32 {
	for text != "" {
		at, id := firstSpecial(text)
		ids = v.encode(ids, text[:at])
		if id < 0 {
			break
		}
		ids = append(ids, id)
		text = text[at+len(specials[id]):]
	}
	return ids
}

// firstSpecial finds the first special token's name in text; id is -1, and at the end, where there is none.
func firstSpecial(text string) (at int, id int32) {
	for from := 0; ; {
		i := strings.Index(text[from:], "<|")
		if i < 0 {
			return len(text), -1
		}
		from += i
		for id, name := range specials {
			if strings.HasPrefix(text[from:], name) {
				return from, id
			}
		}
		from += 2
	}
}

func ints(ids []int32) []int {
	out := make([]int, len(ids))
	for i, id := range ids {
		out[i] = int(id)
	}
	return out
}

// tokens checks ids that came from outside.
func (v *vocabulary) tokens(ids []int) ([]int32, error) {
	out := make([]int32, len(ids))
	for i, id := range ids {
		if id < 0 || id >= v.size() {
			return nil, fmt.Errorf("token id %d is out of vocabulary (0 to %d)", id, v.size()-1)
		}
		out[i] = int32(id)
	}
	return out, nil
}
