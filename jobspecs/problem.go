package jobspecs

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Problem is one thing that is wrong with a deployment.
type Problem struct {
	File   string // as given to Parse; empty = the deployment did not come from a file
	Line   int    // from 1; 0 = not known
	Column int
	Path   string // of the field: roles.decode.gpus.count, engine.args[2]; empty = the file as a whole
	What   string // what is wrong
	Hint   string // what to write instead; may be empty
}

// Error is one line: FILE:LINE: PATH: WHAT; HINT.
func (p Problem) Error() string {
	var b strings.Builder
	switch {
	case p.File != "" && p.Line > 0:
		fmt.Fprintf(&b, "%s:%d: ", p.File, p.Line)
	case p.File != "":
		b.WriteString(p.File + ": ")
	case p.Line > 0:
		fmt.Fprintf(&b, "line %d: ", p.Line)
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.What)
	if p.Hint != "" {
		b.WriteString("; " + p.Hint)
	}
	return visible(b.String())
}

// visible escapes what would act on a terminal: parts of a message come from the file as they are.
func visible(s string) string {
	if !strings.ContainsFunc(s, func(u rune) bool { return !unicode.IsPrint(u) }) {
		return s
	}
	quoted := strconv.Quote(s)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

// Errors is all that is wrong with a deployment, in the order of the file. It is never empty when returned as an error.
type Errors []Problem

// Error is one line for each problem.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, p := range e {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Err is e as an error: nil when there is no problem.
func (e Errors) Err() error {
	if len(e) == 0 {
		return nil
	}
	return e
}

func (e Errors) sort() {
	slices.SortStableFunc(e, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// complaint is a problem with a value whose place the caller knows.
type complaint struct{ what, hint string }

func (c complaint) Error() string { return Problem{What: c.what, Hint: c.hint}.Error() }

// quote shows a value of the file, cut where it is long.
func quote(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "..."
	}
	return strconv.Quote(s)
}
