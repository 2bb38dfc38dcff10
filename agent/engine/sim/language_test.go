package sim

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write golden files")

// A change of the golden file is a change of every text that the simulated engine ever gave: old and new processes would
// not continue each other's streams.
func TestTextIsStable(t *testing.T) {
	t.Parallel()
	var got []byte
	for _, q := range []string{"What is a penstock?", "Erzähl mir vom Fluss 🌊", ""} {
		prompt := ChatPrompt(Message{"system", "Be brief."}, Message{"user", q})
		ids := Generate(FingerprintOf("golden"), prompt, 1000)
		got = fmt.Appendf(got, "%s\n%v\n%s\n----------\n", q, ids, Text(ids))
	}
	const file = "testdata/text.golden"
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(file); err != nil || string(want) != string(got) {
		t.Errorf("text changed (run with -update if that is meant): %v\n%s", err, got)
	}
}

func TestContinuedFromIDsAtEveryCut(t *testing.T) {
	t.Parallel()
	f, prompt := FingerprintOf("m"), ChatPrompt(Message{"user", "Tell me a story."})
	want := Generate(f, prompt, 1000)
	if want[len(want)-1] != eosToken || len(want) < shortestAnswer {
		t.Fatalf("the answer has %d tokens and does not end", len(want))
	}
	for cut := range want {
		rest := Generate(f, append(slices.Clone(prompt), want[:cut]...), 1000)
		if !slices.Equal(rest, want[cut:]) {
			t.Fatalf("continued after %d tokens it goes on with\n%q, want\n%q", cut, Text(rest), Text(want[cut:]))
		}
	}
}

// What goes wrong with a stream has to show by its text, sooner or later.
func TestFaultsShow(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := FingerprintOf("m")
		prompt := ChatPrompt(Message{"user", rapid.StringN(0, 40, 80).Draw(t, "question")})
		want := Generate(f, prompt, 1000)
		cut := rapid.IntRange(12, len(want)-1).Draw(t, "cut")
		sofar := want[:cut]
		text := Text(want)
		retold := append(slices.Clone(prompt), Tokenizer{}.Encode(Text(sofar))...)
		changed := slices.Clone(sofar)
		changed[cut/2] = (changed[cut/2]+1)%firstPair + firstByte
		for fault, ids := range map[string][]int{
			"from text": retold,
			"lost":      append(slices.Clone(prompt), slices.Delete(slices.Clone(sofar), cut/2, cut/2+1)...),
			"doubled":   append(append(slices.Clone(prompt), sofar...), sofar[cut-1]),
			"changed":   append(slices.Clone(prompt), changed...),
		} {
			if got := Text(sofar) + Text(Generate(f, ids, 1000)); got == text && cut < len(want)-1 {
				t.Fatalf("%s at %d of %d: the text is the same", fault, cut, len(want))
			}
		}
		if slices.Equal(Generate(FingerprintOf("other"), prompt, 40), want[:min(40, len(want))]) {
			t.Fatal("other weights give the same text")
		}
	})
}

func TestAnswersHaveUsefulLengths(t *testing.T) {
	t.Parallel()
	var total int
	for i := range 300 {
		n := len(Generate(FingerprintOf("m"), ChatPrompt(Message{"user", fmt.Sprint(i)}), 1000))
		if n < shortestAnswer || n > 300 {
			t.Errorf("answer %d has %d tokens", i, n)
		}
		total += n
	}
	if mean := total / 300; mean < 60 || mean > 200 {
		t.Errorf("answers have %d tokens on average", mean)
	}
}
