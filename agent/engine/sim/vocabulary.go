package sim

import (
	"cmp"
	"slices"
	"strings"
	"sync"
)

// Token ids: special tokens first, then the 256 bytes, then merges, then the placeholders for image patches.
const (
	imStart   = 0 // <|im_start|>
	imEnd     = 1 // <|im_end|>: the end of a turn, and the model's EOS
	endOfText = 2 // <|endoftext|>
	toolOpen  = 3 // <|tools|>: begins the list of tools in the chat template

	eosToken  = imEnd
	firstByte = 16 // ids 4..15 are unused special tokens
	firstPair = firstByte + 256
	merges    = 1800
	// imagePatches are placeholders without text; a run of them stands for an image in a prompt.
	imagePatches = 256
)

var specials = map[int32]string{imStart: "<|im_start|>", imEnd: "<|im_end|>", endOfText: "<|endoftext|>", toolOpen: "<|tools|>"}

// vocabulary is the fixed table of tokens. It is made once, in code, and is the same in every process of one version.
type vocabulary struct {
	text      []string // by id; special tokens and image patches hold ""
	buckets   map[[2]byte][]int32
	firstPad  int32 // first image patch
	phrasings       // how phrases are spelled in tokens
}

// theVocabulary is made when the first token is needed: commands that never simulate should not pay for it.
var theVocabulary = sync.OnceValue(newVocabulary)

func newVocabulary() *vocabulary {
	v := &vocabulary{text: make([]string, firstPair), buckets: map[[2]byte][]int32{}}
	for b := range 256 {
		v.text[firstByte+b] = string([]byte{byte(b)})
	}
	for _, t := range chooseMerges() {
		id := int32(len(v.text))
		v.text = append(v.text, t)
		k := [2]byte{t[0], t[1]}
		v.buckets[k] = append(v.buckets[k], id)
	}
	for _, ids := range v.buckets {
		slices.SortFunc(ids, func(a, b int32) int { return cmp.Compare(len(v.text[b]), len(v.text[a])) })
	}
	v.firstPad = int32(len(v.text))
	v.text = append(v.text, make([]string, imagePatches)...)
	v.phrasings = newPhrasings(v)
	return v
}

// size is the number of ids, image patches included.
func (v *vocabulary) size() int { return len(v.text) }

// special reports whether an id has no text: control tokens and image patches.
func (v *vocabulary) special(id int32) bool { return id < firstByte || id >= v.firstPad }

// longest is the id of the longest token that s begins with. s must not be empty.
func (v *vocabulary) longest(s string) int32 {
	if len(s) > 1 {
		for _, id := range v.buckets[[2]byte{s[0], s[1]}] {
			if strings.HasPrefix(s, v.text[id]) {
				return id
			}
		}
	}
	return firstByte + int32(s[0])
}

// matches lists every token that s begins with, longest first.
func (v *vocabulary) matches(s string) []int32 {
	var ids []int32
	if len(s) > 1 {
		for _, id := range v.buckets[[2]byte{s[0], s[1]}] {
			if strings.HasPrefix(s, v.text[id]) {
				ids = append(ids, id)
			}
		}
	}
	return append(ids, firstByte+int32(s[0]))
}

// chooseMerges picks the fragments that get a token of their own: those that save most bytes in the language's own
// sentences and in common English, across word borders too, and all that hold a part of a character.
func chooseMerges() []string {
	count := map[string]int{}
	for _, s := range trainingText() {
		for i := range s {
			for n := 2; n <= 8 && i+n <= len(s); n++ {
				count[s[i:i+n]]++
			}
		}
	}
	var found []string
	for s := range count {
		if isASCII(s) {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b string) int {
		return cmp.Or(cmp.Compare(count[b]*(len(b)-1), count[a]*(len(a)-1)), cmp.Compare(a, b))
	})
	chosen := append(partialCharacters(), found[:min(merges, len(found))]...)
	slices.Sort(chosen)
	return slices.Compact(chosen)
}

// trainingText is sentences that walk through all phrases, and the common words in a row.
func trainingText() []string {
	text := []string{strings.Join(strings.Fields(commonWords), " "), "\n\n", ".\n", ", ", ". ", `": "`, `", "`, `{"`, `"}`}
	for i := range subjects {
		var b strings.Builder
		b.WriteString(subjects[i])
		for j := range 16 {
			b.WriteString(verbs[(i+j)%len(verbs)] + objects[(i*3+j)%len(objects)] + tails[(i*5+j)%len(tails)] + ends[(i+j)%len(ends)] + " " + subjects[(i+j)%len(subjects)])
		}
		text = append(text, b.String())
	}
	return text
}

// partialCharacters are tokens that begin or end inside a character, as byte-level vocabularies have them, and the whole
// characters, which is what the tokenizer prefers when it reads text.
func partialCharacters() []string {
	var out []string
	for _, list := range [][]string{subjects, objects, tails, ends} {
		for _, s := range list {
			for i, r := range s {
				c := string(r)
				if len(c) < 2 {
					continue
				}
				out = append(out, c)
				if len(c) > 2 {
					out = append(out, c[:2], c[len(c)-2:])
				}
				if i > 0 {
					out = append(out, s[i-1:i]+c[:1], s[i-1:i]+c[:len(c)-1])
				}
				if next := i + len(c); next < len(s) {
					out = append(out, c[len(c)-1:]+s[next:next+1])
				}
			}
		}
	}
	return out
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
