package render

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// variable is something that is only known at a start. Its stand-in goes through the launch line as an ordinary value;
// in the script it becomes ${name}, which is the stand-in itself unless the caller's environment says otherwise. Where a
// stand-in meets an equal word of the user's by chance, the script still means the same.
type variable struct {
	name      string
	standIn   string // what the launch line holds
	otherwise string // the default, as the shell expands it
	help      string
}

// assign takes the variable from the caller's environment, or sets the default.
func (v variable) assign() string {
	return v.name + "=${" + v.name + ":-" + v.otherwise + "} # " + v.help
}

var safe = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// quote writes a word for bash: as it is where that is safe, in double quotes where it holds what a shell would expand,
// in single quotes otherwise.
func quote(word string) string {
	switch {
	case safe.MatchString(word):
		return word
	case strings.ContainsAny(word, "$`"):
		return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`").Replace(word) + `"`
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// expand is quote for a word that may hold stand-ins.
func expand(word string, vars []variable) string {
	parts := split(word, vars)
	if len(parts) == 1 && parts[0].variable == "" {
		return quote(word)
	}
	plain := !slices.ContainsFunc(parts, func(p part) bool { return p.variable == "" && !safe.MatchString(p.text) })
	var b strings.Builder
	for _, p := range parts {
		switch {
		case p.variable == "" && plain:
			b.WriteString(p.text)
		case p.variable == "":
			b.WriteString(quote(p.text))
		case plain:
			b.WriteString("${" + p.variable + "}")
		default:
			b.WriteString(`"${` + p.variable + `}"`)
		}
	}
	if plain {
		return `"` + b.String() + `"`
	}
	return b.String()
}

// part is a piece of a word: text, or a variable in place of its stand-in.
type part struct{ text, variable string }

// split finds the stand-ins of a word. A word without any is one part, also when it is empty.
func split(word string, vars []variable) []part {
	for _, v := range vars {
		before, after, found := cut(word, v.standIn)
		if !found {
			continue
		}
		var parts []part
		if before != "" {
			parts = split(before, vars)
		}
		parts = append(parts, part{variable: v.name})
		if after != "" {
			parts = append(parts, split(after, vars)...)
		}
		return parts
	}
	return []part{{text: word}}
}

// cut finds a stand-in. A number must stand alone: 61001 is no part of 161001.
func cut(word, standIn string) (before, after string, found bool) {
	_, err := strconv.Atoi(standIn)
	number := err == nil
	for at := 0; ; at++ {
		i := strings.Index(word[at:], standIn)
		if i < 0 {
			return "", "", false
		}
		at += i
		before, after = word[:at], word[at+len(standIn):]
		if !number || !endsInDigit(before) && !startsWithDigit(after) {
			return before, after, true
		}
	}
}

func endsInDigit(s string) bool { return s != "" && s[len(s)-1] >= '0' && s[len(s)-1] <= '9' }

func startsWithDigit(s string) bool { return s != "" && s[0] >= '0' && s[0] <= '9' }

// command writes a command over several lines, an option with its values on each.
func command(argv []string, indent string, vars []variable) string {
	var b strings.Builder
	for i, word := range argv {
		switch {
		case i == 0:
		case strings.HasPrefix(word, "-"):
			b.WriteString(" \\\n" + indent)
		default:
			b.WriteByte(' ')
		}
		b.WriteString(expand(word, vars))
	}
	return b.String()
}
