package render

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestQuote: bash reads back the very words that were quoted, stand-ins replaced, whatever they hold.
func TestQuote(t *testing.T) {
	t.Parallel()
	vars := []variable{{"RUN", "@RUN@", "", ""}, {"HOST", "@HOST@", "", ""}, {"PORT", "61001", "", ""}}
	piece := rapid.OneOf(
		rapid.SampledFrom([]string{"@RUN@", "@HOST@", "61001", "$RUN", "'", `"`, `\`, "`x`", "$(x)", "\n", " ", "!", "*", "~", "{a,b}", "-", "=", "1", "x", "/"}),
		rapid.StringMatching(`[ -~]{0,8}`),
	)
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string {
			return strings.Join(rapid.SliceOfN(piece, 0, 5).Draw(t, "pieces"), "")
		}), 1, 20).Draw(t, "words")
		script := "RUN='r n' HOST=h PORT=5\nprintf '%s\\0' " + command(words, "  ", vars)
		out, err := exec.Command("bash", "-c", script).Output()
		if err != nil {
			t.Fatalf("%v in %s", err, script)
		}
		want := make([]string, len(words))
		for i, w := range words {
			want[i] = replaced(w)
		}
		if got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); !slices.Equal(got, want) {
			t.Fatalf("%q became %q", words, got)
		}
	})
}

// replaced does by hand what the shell does with a word: numbers are stand-ins only where they stand alone.
func replaced(w string) string {
	w = strings.NewReplacer("@RUN@", "r n", "@HOST@", "h").Replace(w)
	var b strings.Builder
	for i := 0; i < len(w); {
		j := i
		for j < len(w) && w[j] >= '0' && w[j] <= '9' {
			j++
		}
		switch {
		case w[i:j] == "61001":
			b.WriteString("5")
		case j > i:
			b.WriteString(w[i:j])
		default:
			b.WriteByte(w[j])
			j++
		}
		i = j
	}
	return b.String()
}
