package sim

// Generate is the reference of the simulated model: the n tokens that greedy decoding gives after a prompt, less if the
// answer ends first (the last one is then the EOS token). Tests compare what came through gateways with it.
func Generate(f Fingerprint, prompt []int, n int) []int {
	v := theVocabulary()
	c := newPrefix(f)
	for _, t := range prompt {
		c = v.fold(c, int32(t))
	}
	out := make([]int, 0, n)
	for len(out) < n {
		t := v.next(c, 0)
		out = append(out, int(t))
		if t == eosToken {
			break
		}
		c = v.fold(c, t)
	}
	return out
}

// Text is the text of tokens as an answer shows it. Special tokens have none, bytes that cannot be UTF-8 become U+FFFD, and
// the beginning of a character at the end is left out: it shows once the character is complete.
func Text(ids []int) string {
	d := newDetokenizer(theVocabulary(), true)
	var out []byte
	for _, t := range ids {
		out = d.push(out, int32(t))
	}
	return string(out)
}
