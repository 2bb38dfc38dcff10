package plan

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the actions that come out into testdata/*.txt")

// Each file of testdata holds cases: a title after "== ", what is wanted and seen, and below "----" what Plan makes of it.
func TestCases(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			head, cases, _ := strings.Cut(string(text), "== ")
			out.WriteString(head)
			for c := range strings.SplitSeq(cases, "\n== ") {
				title, rest, _ := strings.Cut(c, "\n")
				input, _, _ := strings.Cut(rest, "----\n")
				t.Run(title, func(t *testing.T) {
					w := parseWorld(t, input)
					out.WriteString("== " + title + "\n" + input + "----\n")
					for _, a := range Plan(w.wanted, w.seen, w.now) {
						out.WriteString(show(a) + "\n")
					}
					out.WriteString("\n")
				})
			}
			got := strings.TrimSuffix(out.String(), "\n")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if d := cmp.Diff(string(text), got); d != "" && !*update {
				t.Errorf("other actions than in the file (-update writes them):\n%s", d)
			}
		})
	}
}
