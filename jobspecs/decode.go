package jobspecs

import (
	"encoding"
	"errors"
	"reflect"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// decoder reads a syntax tree into Go values, notes where every field stands, and goes on after a problem.
type decoder struct {
	checker
	where map[string]Position
}

func (d *decoder) decode(at place, n ast.Node, v reflect.Value) {
	switch {
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.decode(at, n, v.Elem())
	case v.Type() == gpusType && n.Type() == ast.IntegerType:
		count := v.FieldByName("Count")
		d.scalar(place{at.path, at.rule + ".count"}, n, count)
	case v.Kind() == reflect.Struct:
		d.section(at, n, v)
	case v.Kind() == reflect.Map:
		d.mapping(at, n, v)
	case v.Kind() == reflect.Slice:
		d.list(at, n, v)
	default:
		d.scalar(at, n, v)
	}
}

func (d *decoder) section(at place, n ast.Node, v reflect.Value) {
	pairs, ok := d.pairs(at, n, "its keys are "+strings.Join(keysOf(v.Type()), ", "))
	if !ok {
		return
	}
	given := map[string]bool{}
	for _, p := range pairs {
		given[p.key] = true
		child := at.child(p.key)
		f, ok := findField(v.Type(), p.key)
		if !ok {
			d.unknown(at, p, v.Type())
			continue
		}
		d.decode(child, p.value, v.Field(f.index))
	}
	for _, f := range fieldsOf(v.Type()) {
		if !given[f.key] {
			d.missing(at.child(f.key), v.Type().Field(f.index).Type)
		}
	}
}

func findField(t reflect.Type, key string) (field, bool) {
	for _, f := range fieldsOf(t) {
		if f.key == key {
			return f, true
		}
	}
	return field{}, false
}

// unknown names the nearest key of this section, or the section where the very same key belongs, or all keys.
func (d *decoder) unknown(at place, p pair, t reflect.Type) {
	hint := "known here: " + strings.Join(keysOf(t), ", ")
	if n := Nearest(p.key, keysOf(t)); n != "" {
		hint = "did you mean " + n + "?"
	} else if home := homeOf(p.key); home != "" {
		hint = "it belongs to " + home
	}
	d.addf(at.child(p.key).path, hint, "unknown key")
}

// homeOf finds a section that has the key; the shallowest, then the first by name.
func homeOf(key string) string {
	best := ""
	for path := range rules {
		section, last, ok := cutLast(path)
		if !ok || last != key || strings.Contains(section, "[]") {
			continue
		}
		section = strings.ReplaceAll(section, "*", "ROLE")
		if best == "" || strings.Count(section, ".") < strings.Count(best, ".") ||
			strings.Count(section, ".") == strings.Count(best, ".") && section < best {
			best = section
		}
	}
	return best
}

func cutLast(path string) (section, key string, ok bool) {
	i := strings.LastIndexByte(path, '.')
	if i < 0 {
		return "", path, false
	}
	return path[:i], path[i+1:], true
}

func (d *decoder) mapping(at place, n ast.Node, v reflect.Value) {
	pairs, ok := d.pairs(at, n, "write lines of KEY: VALUE")
	if !ok {
		return
	}
	if len(pairs) == 0 {
		d.addf(at.path, "fill it or leave it out", "is empty")
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for _, p := range pairs {
		if !d.key(at, p.key, v.Type().Key()) {
			continue
		}
		e := blank(v.Type().Elem())
		d.decode(at.entry(p.key), p.value, e)
		v.SetMapIndex(reflect.ValueOf(p.key).Convert(v.Type().Key()), e)
	}
}

func (d *decoder) list(at place, n ast.Node, v reflect.Value) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.mismatch(at, n, "a list", "write [A, B], or one item a line behind a dash")
		return
	}
	if len(seq.Values) == 0 {
		d.addf(at.path, "fill it or leave it out", "is empty")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values)))
	for i, item := range seq.Values {
		d.where[at.item(i).path] = positionOf(item)
		d.decode(at.item(i), item, v.Index(i))
	}
}

// scalar reads a number, a text, a boolean, a size or a span.
func (d *decoder) scalar(at place, n ast.Node, v reflect.Value) {
	s, ok := scalarOf(n)
	if !ok {
		d.mismatch(at, n, nameOf(v.Type()), "put it in quotes if it holds a colon, a bracket or a brace")
		return
	}
	if err := setScalar(v, s, rules[at.rule].literal); err != nil {
		c := complaint{what: err.Error()}
		errors.As(err, &c)
		d.addf(at.path, c.hint, "%s", c.what)
		return
	}
	d.value(at, v)
}

func setScalar(v reflect.Value, s scalar, literal bool) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(s.text))
	}
	switch {
	case v.Kind() == reflect.String:
		if s.kind != textScalar && !literal {
			return complaint{s.text + " is " + s.kind.String() + ", not text", `write "` + s.text + `"`}
		}
		v.SetString(s.text)
	case v.Kind() == reflect.Bool:
		if s.kind != boolScalar || s.text != "true" && s.text != "false" {
			return complaint{quote(s.text) + " is neither true nor false", "write true or false"}
		}
		v.SetBool(s.text == "true")
	case s.kind != numberScalar:
		return complaint{quote(s.text) + " is no number", "write digits, without quotes"}
	default:
		n, err := whole(s.text)
		if err != nil {
			return err
		}
		v.SetInt(n)
	}
	return nil
}

// whole reads a whole number as the file writes it.
func whole(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || strings.HasPrefix(s, "+") {
		return 0, complaint{quote(s) + " is no whole number", "write digits only"}
	}
	return n, nil
}

// mismatch says what was found where something else was expected.
func (d *decoder) mismatch(at place, n ast.Node, want, hint string) {
	if _, ok := n.(*ast.NullNode); ok {
		d.addf(at.path, "give "+want+", or leave the key out", "has no value")
		return
	}
	d.addf(at.path, hint, "expected %s, found %s", want, kindOf(n))
}

// nameOf says in words what a type holds.
func nameOf(t reflect.Type) string {
	switch {
	case t == bytesType:
		return "a size such as 64GiB"
	case t == durationType:
		return "a span of time such as 90s"
	case t.Kind() == reflect.String:
		return "text"
	case t.Kind() == reflect.Bool:
		return "true or false"
	}
	return "a whole number"
}
