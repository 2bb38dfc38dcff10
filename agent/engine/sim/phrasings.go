package sim

import (
	"slices"
	"strings"
)

// spelling is one way to write one phrase as tokens.
type spelling struct {
	tokens []int32
	next   phase // what follows it
}

// spellingsPerPhrase is how many ways there are to write a phrase. Where it can be helped, none is how the tokenizer
// would write it.
const spellingsPerPhrase = 6

// phrasings are all spellings, and which of them belong to each phase.
type phrasings struct {
	spellings []spelling
	byPhase   [phases][]uint16
	eos       uint16 // the spelling that is only the EOS token
}

func newPhrasings(v *vocabulary) phrasings {
	var p phrasings
	add := func(ph phase, phrases []string, prefix string) {
		for i, s := range phrases {
			for n := range spellingsPerPhrase {
				seed := mix(uint64(ph)<<32|uint64(i)<<8, uint64(n))
				p.byPhase[ph] = append(p.byPhase[ph], uint16(len(p.spellings)))
				p.spellings = append(p.spellings, spelling{v.misspell(prefix+s, seed), following(ph, s)})
			}
		}
	}
	add(sentenceBare, subjects, "")
	add(sentence, subjects, " ")
	add(verb, verbs, "")
	add(object, objects, "")
	add(tail, tails, "")
	add(end, ends, "")
	p.eos = uint16(len(p.spellings))
	p.spellings = append(p.spellings, spelling{[]int32{eosToken}, sentenceBare})
	return p
}

func following(ph phase, phrase string) phase {
	switch {
	case ph == sentenceBare:
		return verb
	case ph < end:
		return ph + 1
	case strings.HasSuffix(phrase, "\n"):
		return sentenceBare
	default:
		return sentence
	}
}

// misspell writes text as tokens, but not as the tokenizer would, if there is another way.
func (v *vocabulary) misspell(text string, seed uint64) []int32 {
	for n := range uint64(10) {
		if ids := v.spell(text, mix(seed, n)); !slices.Equal(ids, v.encode(nil, text)) {
			return ids
		}
	}
	return v.spell(text, seed)
}

// spell writes text as tokens drawn by seed: longer tokens are likelier, and no token holds a whole character outside
// ASCII, so that such characters always arrive in pieces.
func (v *vocabulary) spell(text string, seed uint64) []int32 {
	var out []int32
	for rest := text; rest != ""; {
		var total uint64
		ids := v.matches(rest)
		weights := make([]uint64, len(ids))
		for i, id := range ids {
			if t := v.text[id]; !holdsCharacter(t) {
				weights[i] = uint64(len(t) * len(t))
				total += weights[i]
			}
		}
		seed = mix(seed, uint64(len(rest)))
		draw := seed % total
		for i, w := range weights {
			if draw < w {
				out = append(out, ids[i])
				rest = rest[len(v.text[ids[i]]):]
				break
			}
			draw -= w
		}
	}
	return out
}

// holdsCharacter reports whether s holds a complete character outside ASCII.
func holdsCharacter(s string) bool {
	for _, r := range s {
		if r >= 0x80 && r != '\uFFFD' {
			return true
		}
	}
	return false
}
