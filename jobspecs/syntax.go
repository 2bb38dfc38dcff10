package jobspecs

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Limits of a file. They are far above what people write, and keep the YAML parser, which takes quadratic time and
// recurses, within a fraction of a second.
const (
	MaxSize   = 1 << 20 // bytes
	maxTokens = 20_000
	maxDepth  = 32 // of brackets, and of dashes in one line
)

// Position is a place in a file; both count from 1.
type Position struct{ Line, Column int }

// parseSyntax turns text into the syntax tree of its one document.
func parseSyntax(src []byte) (ast.Node, *Problem) {
	if len(src) > MaxSize {
		return nil, &Problem{What: fmt.Sprintf("is %d bytes long", len(src)), Hint: fmt.Sprintf("a deployment file has at most %d", MaxSize)}
	}
	if !utf8.Valid(src) {
		return nil, &Problem{What: "is not UTF-8 text"}
	}
	tokens := lexer.Tokenize(string(bytes.TrimPrefix(src, []byte("\ufeff"))))
	if p := checkTokens(tokens); p != nil {
		return nil, p
	}
	file, p := parseTokens(tokens)
	if p != nil {
		return nil, p
	}
	return onlyDocument(file)
}

// checkTokens refuses what the parser must not see: too much, too deep, and YAML's means to say one thing by another.
func checkTokens(tokens token.Tokens) *Problem {
	if len(tokens) > maxTokens {
		return &Problem{What: "holds more than a deployment file ever needs", Hint: fmt.Sprintf("%d words and marks, of at most %d", len(tokens), maxTokens)}
	}
	brackets, dashes, line := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			dashes, line = 0, t.Position.Line
		}
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			brackets++
		case token.MappingEndType, token.SequenceEndType:
			brackets--
		case token.SequenceEntryType, token.MappingKeyType:
			dashes++
		case token.AnchorType, token.AliasType, token.MergeKeyType:
			return problemAt(t, "anchors, aliases and merge keys (&, *, <<) are not read", "write the value out, or quote it if it is text")
		case token.TagType:
			return problemAt(t, "tags (!) are not read", "leave it out, or quote the value if it is text")
		}
		if brackets > maxDepth || dashes > maxDepth || t.Position.IndentNum > 8*maxDepth {
			return problemAt(t, "is nested too deeply", "")
		}
	}
	return nil
}

// parseTokens keeps a panic of the YAML parser, which has had some, from the caller: it is a file that can't be read.
func parseTokens(tokens token.Tokens) (file *ast.File, p *Problem) {
	defer func() {
		if r := recover(); r != nil {
			file, p = nil, &Problem{What: "is not valid YAML", Hint: fmt.Sprint(r)}
		}
	}()
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	var bad yaml.Error
	switch {
	case errors.As(err, &bad):
		return nil, problemAt(bad.GetToken(), "is not valid YAML: "+bad.GetMessage(), "")
	case err != nil:
		return nil, &Problem{What: "is not valid YAML: " + err.Error()}
	}
	return file, nil
}

func problemAt(t *token.Token, what, hint string) *Problem {
	p := &Problem{What: what, Hint: hint}
	if t != nil && t.Position != nil {
		p.Line, p.Column = t.Position.Line, t.Position.Column
	}
	return p
}

func onlyDocument(file *ast.File) (ast.Node, *Problem) {
	var body ast.Node
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil || doc.Body.Type() == ast.DirectiveType:
		case body != nil:
			return nil, problemAt(doc.Body.GetToken(), "a second document begins here", "write one deployment a file")
		default:
			body = doc.Body
		}
	}
	if body == nil {
		return nil, &Problem{What: "is empty", Hint: "write at least apiVersion, name, model, engine and roles"}
	}
	return body, nil
}

// pair is one key and its value in a mapping of the file.
type pair struct {
	key   string
	value ast.Node
}

// pairs lists a mapping's entries, notes their places, and reports keys that are no text or come twice.
func (d *decoder) pairs(at place, n ast.Node, hint string) ([]pair, bool) {
	m, ok := n.(*ast.MappingNode)
	switch {
	case n.Type() == ast.NullType:
		d.addf(at.path, "fill it, write {} for its defaults, or leave the key out", "has no value")
		return nil, false
	case !ok:
		d.mismatch(at, n, "a section with keys", hint)
		return nil, false
	}
	var pairs []pair
	seen := map[string]int{}
	for _, v := range m.Values {
		key, ok := v.Key.(*ast.StringNode)
		if !ok {
			d.add(Problem{Path: join(at.path, strings.TrimSpace(v.Key.String())), What: "keys are plain text", Line: positionOf(v.Key).Line})
			continue
		}
		path := join(at.path, key.Value)
		if line, twice := seen[key.Value]; twice {
			p := positionOf(key)
			d.always(Problem{Path: path, What: fmt.Sprintf("stands twice, first in line %d", line), Line: p.Line, Column: p.Column})
			continue
		}
		seen[key.Value] = positionOf(key).Line
		d.where[path] = positionOf(key)
		pairs = append(pairs, pair{key.Value, v.Value})
	}
	return pairs, true
}

func positionOf(n ast.Node) Position {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return Position{t.Position.Line, t.Position.Column}
	}
	return Position{1, 1}
}

type scalarKind int

const (
	textScalar scalarKind = iota
	numberScalar
	boolScalar
)

func (k scalarKind) String() string {
	return [...]string{"text", "a number", "a boolean"}[k]
}

// scalar is a single value as the file writes it.
type scalar struct {
	kind scalarKind
	text string
}

func scalarOf(n ast.Node) (scalar, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return scalar{textScalar, n.Value}, true
	case *ast.LiteralNode:
		return scalar{textScalar, n.Value.Value}, true
	case *ast.BoolNode:
		return scalar{boolScalar, n.Token.Value}, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return scalar{numberScalar, n.GetToken().Value}, true
	}
	return scalar{}, false
}

func kindOf(n ast.Node) string {
	switch n.Type() {
	case ast.MappingType, ast.MappingValueType:
		return "a section with keys"
	case ast.SequenceType:
		return "a list"
	}
	if s, ok := scalarOf(n); ok {
		return quote(s.text)
	}
	return "something else"
}
