package process

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestTailKeepsTheLastLines(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		keep, width int
		in          string
		want        []string
	}{
		"nothing":            {3, 80, "", []string{}},
		"fewer":              {3, 80, "a\nb\n", []string{"a", "b"}},
		"more":               {3, 80, "a\nb\nc\nd\ne\n", []string{"c", "d", "e"}},
		"begun line":         {2, 80, "a\nb\nc", []string{"b", "c"}},
		"empty lines":        {3, 80, "a\n\nb\n", []string{"a", "", "b"}},
		"none":               {0, 80, "a\nb", []string{}},
		"long line":          {2, 4, "abcdefgh\nx\n", []string{"abcd", "x"}},
		"cut in a character": {2, 4, "abc\u00e9\u00e9\n", []string{"abc"}},
		"bad UTF-8":          {2, 80, "a\xffb\n", []string{"a\uFFFDb"}},
		"dos ends":           {2, 80, "a\r\nb\r\n", []string{"a", "b"}},
		"progress bar":       {2, 80, "load\n 10%\r 50%\r100%\ndone\n", []string{"100%", "done"}},
		"bar under way":      {2, 80, "load\n 10%\r 50%\r", []string{"load", " 50%"}},
		"colours":            {2, 80, "\x1b[1;31mred\x1b[0m\t!\x1b]0;title\x07\n", []string{"red\t!"}},
		"controls":           {2, 80, "a\x00\x07\x1b\u009bb\n", []string{"ab"}},
		"colour, long line":  {1, 3, "\x1b[36mabcdef", []string{"abc"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tail := NewTail(test.keep, test.width)
			if n, err := tail.Write([]byte(test.in)); n != len(test.in) || err != nil {
				t.Errorf("write: %d, %v", n, err)
			}
			if diff := cmp.Diff(test.want, tail.Lines()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTailDoesNotSeeHowOutputIsCut(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOf(rapid.SampledFrom([]string{"ab", "\n", "\r", "\u20ac", "\x1b[0m", "\xff", "long word"})).Draw(t, "text"), "")
		whole, pieces := NewTail(3, 10), NewTail(3, 10)
		_, _ = whole.Write([]byte(text))
		for rest := text; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			_, _ = pieces.Write([]byte(rest[:n]))
			rest = rest[n:]
		}
		if diff := cmp.Diff(whole.Lines(), pieces.Lines()); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestTailTakesManyWriters(t *testing.T) {
	t.Parallel()
	tail := NewTail(50, 20)
	var writers sync.WaitGroup
	for i := range 10 {
		writers.Go(func() {
			for j := range 5 {
				fmt.Fprintf(tail, "%d-%d\n", i, j)
				tail.Lines()
			}
		})
	}
	writers.Wait()
	seen := map[string]bool{}
	for _, line := range tail.Lines() {
		seen[line] = true
	}
	if len(seen) != 50 {
		t.Errorf("%d different lines, want 50", len(seen))
	}
}

func FuzzTail(f *testing.F) {
	f.Add([]byte("a\r\nb\x1b[31m\xff"), 3)
	f.Fuzz(func(t *testing.T, b []byte, at int) {
		tail := NewTail(4, 16)
		at = max(0, min(at, len(b)))
		_, _ = tail.Write(b[:at])
		_, _ = tail.Write(b[at:])
		lines := tail.Lines()
		if len(lines) > 4 || len(lines) > bytes.Count(b, []byte("\n"))+1 {
			t.Errorf("%d lines", len(lines))
		}
		for _, line := range lines {
			if !utf8.ValidString(line) || len(line) > 16 || strings.ContainsAny(line, "\n\r\x1b\x00") {
				t.Errorf("line %q", line)
			}
		}
	})
}
