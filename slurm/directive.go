package slurm

import (
	"fmt"
	"strings"

	"github.com/penstock/penstock/jobspecs"
)

// option is one option of sbatch by its long name.
type option struct{ name, value string }

// directives reads the #SBATCH lines of a script that Penstock has written: those before its first command, with sbatch's rules
// for quotes.
func directives(script string) (all []option, err error) {
	for line := range strings.Lines(script) {
		text, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "#SBATCH ")
		if !ok {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				break
			}
			continue
		}
		words, err := directiveWords(text)
		if err != nil {
			return nil, fmt.Errorf("#SBATCH %s: %w", cut(text), err)
		}
		if len(words) == 0 {
			continue
		}
		all = append(all, optionOf(words))
	}
	return all, nil
}

// optionOf reads --name=value, --name value, -n value and -nvalue.
func optionOf(words []string) option {
	first := words[0]
	o := option{name: jobspecs.SbatchOption(first)}
	if long, ok := strings.CutPrefix(first, "--"); ok {
		_, o.value, _ = strings.Cut(long, "=")
	} else if len(first) > 2 {
		o.value = strings.TrimPrefix(first[2:], "=")
	}
	if o.value == "" && len(words) > 1 {
		o.value = words[1]
	}
	return o
}

// directiveWords takes a line apart: quotes of both kinds, backslashes that take the next character as it is, # for a comment.
func directiveWords(line string) (words []string, err error) {
	var b strings.Builder
	var quoted byte
	begun := false
	end := func() {
		if begun {
			words = append(words, b.String())
			b.Reset()
		}
		begun = false
	}
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '\\' && i+1 < len(line):
			i++
			b.WriteByte(line[i])
			begun = true
		case quoted != 0 && c == quoted:
			quoted = 0
		case quoted == 0 && (c == '"' || c == '\''):
			quoted, begun = c, true
		case quoted == 0 && c == '#':
			i = len(line)
		case quoted == 0 && (c == ' ' || c == '\t'):
			end()
		default:
			b.WriteByte(c)
			begun = true
		}
	}
	end()
	if quoted != 0 {
		return nil, fmt.Errorf("a quote %c does not end", quoted)
	}
	return words, nil
}
