package sim

import "fmt"

// Logprobs are made up from the text function's hash: the same place in the same text has the same ones, and the token
// that was chosen is the likeliest.

// likelihood is one token and its made-up log probability.
type likelihood struct {
	token   int32
	logprob float64
}

// alternatives are the chosen token and n-1 others in falling order, at least the chosen one.
func alternatives(t emitted, n int) []likelihood {
	lp := -float64(mix(t.hash, 'p')%1000) / 1000
	out := []likelihood{{t.token, lp}}
	for i := 1; i < n; i++ {
		lp -= 0.5 + float64(mix(t.hash, uint64(i))%1000)/1000
		other := firstByte + int32(mix(t.hash, uint64(i)<<8)%(256+merges))
		if other == t.token {
			other++
		}
		out = append(out, likelihood{other, lp})
	}
	return out
}

// tokenText is a token's text in logprobs: bytes that are no UTF-8 by themselves show as U+FFFD.
func tokenText(v *vocabulary, id int32, asID bool) string {
	if asID {
		return fmt.Sprintf("token_id:%d", id)
	}
	d := newDetokenizer(v, false)
	return string(d.flush(d.push(nil, id)))
}

// completionLogprobs is the form of /v1/completions.
type completionLogprobs struct {
	TextOffset    []int                `json:"text_offset"`
	TokenLogprobs []*float64           `json:"token_logprobs"`
	Tokens        []string             `json:"tokens"`
	TopLogprobs   []map[string]float64 `json:"top_logprobs"`
}

// newCompletionLogprobs describes tokens whose text begins at offset. The first known tokens, if any, are a prompt's, and
// the very first has no probability.
func newCompletionLogprobs(v *vocabulary, tokens []emitted, top, offset int, asID, promptFirst bool) *completionLogprobs {
	l := &completionLogprobs{[]int{}, []*float64{}, []string{}, []map[string]float64{}}
	for i, t := range tokens {
		text := tokenText(v, t.token, asID)
		l.TextOffset = append(l.TextOffset, offset)
		l.Tokens = append(l.Tokens, text)
		offset += len([]rune(text))
		if i == 0 && promptFirst {
			l.TokenLogprobs, l.TopLogprobs = append(l.TokenLogprobs, nil), append(l.TopLogprobs, nil)
			continue
		}
		all := alternatives(t, top+1)
		tops := map[string]float64{}
		for _, a := range all {
			tops[tokenText(v, a.token, asID)] = a.logprob
		}
		l.TokenLogprobs, l.TopLogprobs = append(l.TokenLogprobs, &all[0].logprob), append(l.TopLogprobs, tops)
	}
	return l
}

// chatLogprob is one token in the form of /v1/chat/completions.
type chatLogprob struct {
	Token   string        `json:"token"`
	Logprob float64       `json:"logprob"`
	Bytes   []int         `json:"bytes"`
	Top     []chatLogprob `json:"top_logprobs,omitempty"`
}

type chatLogprobs struct {
	Content []chatLogprob `json:"content"`
}

func newChatLogprobs(v *vocabulary, tokens []emitted, top int, asID bool) *chatLogprobs {
	one := func(a likelihood) chatLogprob {
		text := tokenText(v, a.token, asID)
		l := chatLogprob{Token: text, Logprob: a.logprob, Bytes: []int{}}
		for _, b := range []byte(text) {
			l.Bytes = append(l.Bytes, int(b))
		}
		return l
	}
	out := &chatLogprobs{[]chatLogprob{}}
	for _, t := range tokens {
		all := alternatives(t, top)
		l := one(all[0])
		for _, a := range all[:min(top, len(all))] {
			l.Top = append(l.Top, one(a))
		}
		out.Content = append(out.Content, l)
	}
	return out
}
