package jobspecs

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode"
)

// checker collects problems. A field gets one problem only, its first, and checks that relate several fields keep quiet
// where one of them is wrong already: follow-on messages would hide the cause.
type checker struct {
	errs Errors
	bad  map[string]bool // paths with a problem
	more int             // problems beyond maxProblems
}

// maxProblems bounds the message for a file that is something else altogether.
const maxProblems = 200

func (c *checker) add(p Problem) {
	if !c.bad[p.Path] {
		c.always(p)
	}
}

// always adds a problem to a field that may have one already.
func (c *checker) always(p Problem) {
	if c.bad == nil {
		c.bad = map[string]bool{}
	}
	c.bad[p.Path] = true
	if len(c.errs) == maxProblems {
		c.more++
		return
	}
	c.errs = append(c.errs, p)
}

// counted adds to what was found how much was left out.
func (c *checker) counted(err error) error {
	var errs Errors
	if errors.As(err, &errs) && c.more > 0 {
		return append(errs, Problem{File: errs[0].File, What: fmt.Sprintf("%d more problems", c.more)})
	}
	return err
}

func (c *checker) addf(path, hint, format string, args ...any) {
	c.add(Problem{Path: path, What: fmt.Sprintf(format, args...), Hint: hint})
}

// clean reports whether nothing is wrong at, in or around the paths.
func (c *checker) clean(paths ...string) bool {
	for _, p := range paths {
		if c.within(p) {
			return false
		}
		for bad := range c.bad {
			if over(p, bad) {
				return false
			}
		}
	}
	return true
}

// within reports whether something is wrong with the field or with a section around it as a whole.
func (c *checker) within(path string) bool {
	for !c.bad[path] {
		if path == "" {
			return false
		}
		path = parent(path)
	}
	return true
}

// value checks one scalar against its rule and its type.
func (c *checker) value(at place, v reflect.Value) {
	r := rules[at.rule]
	switch {
	case v.Kind() == reflect.String:
		c.text(at, r, v)
	case v.Type() == bytesType:
		c.number(at, r, int64(v.Uint()), v.Interface())
	case v.CanInt():
		c.number(at, r, v.Int(), v.Interface())
	}
}

func (c *checker) number(at place, r rule, n int64, shown any) {
	switch {
	case n < r.min && r.min == 1 && r.byValue != "":
		c.addf(at.path, "leave it out for the default of "+r.byValue, "must be more than 0, not %v", shown)
	case n < r.min:
		c.addf(at.path, "", "must be at least %d, not %v", r.min, shown)
	case r.max > 0 && n > r.max:
		c.addf(at.path, "", "must be at most %d, not %v", r.max, shown)
	}
}

func (c *checker) text(at place, r rule, v reflect.Value) {
	s := v.String()
	if allowed := enums[v.Type()]; allowed != nil {
		c.oneOf(at.path, s, allowed)
		return
	}
	switch i := strings.IndexFunc(s, func(u rune) bool { return unprintable(u, r.free) }); {
	case s == "" && !r.free:
		c.addf(at.path, "", "is empty")
	case len(s) > maxText:
		c.addf(at.path, "", "is longer than %d bytes", maxText)
	case i >= 0:
		c.addf(at.path, "", "holds an unprintable character at byte %d of %s", i+1, quote(s))
	case r.form != nil && !r.form.re.MatchString(s):
		c.addf(at.path, r.form.hint, "%s is no %s", quote(s), r.form.words)
	}
}

const maxText = 64 << 10

// unprintable finds what could fool a reader's terminal or a shell: control characters and invalid UTF-8.
func unprintable(u rune, free bool) bool {
	return u == unicode.ReplacementChar || !unicode.IsPrint(u) && !(free && (u == '\n' || u == '\t'))
}

func (c *checker) oneOf(path, s string, allowed []string) bool {
	if slices.Contains(allowed, s) {
		return true
	}
	hint := "write one of " + strings.Join(allowed, ", ")
	if n := Nearest(s, allowed); n != "" {
		hint = "did you mean " + n + "? Known are " + strings.Join(allowed, ", ")
	}
	c.addf(path, hint, "%s is not known", quote(s))
	return false
}

// key checks the key of a map against the map's rule.
func (c *checker) key(at place, key string, t reflect.Type) bool {
	child := at.entry(key).path
	if allowed := enums[t]; allowed != nil {
		return c.oneOf(child, key, allowed)
	}
	if f := rules[at.rule].keys; f != nil && !f.re.MatchString(key) {
		c.addf(child, f.hint, "%s is no %s", quote(key), f.words)
		return false
	}
	return true
}

// walk checks all that is set in v, and that what is required is there.
func (c *checker) walk(at place, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			c.walk(at, v.Elem())
		}
	case reflect.Struct:
		for _, f := range fieldsOf(v.Type()) {
			c.field(at.child(f.key), v.Field(f.index))
		}
	case reflect.Slice:
		for i := range v.Len() {
			c.walk(at.item(i), v.Index(i))
		}
	case reflect.Map:
		for _, k := range sortedKeys(v) {
			if c.key(at, k.String(), k.Type()) {
				c.walk(at.entry(k.String()), v.MapIndex(k))
			}
		}
	default:
		c.value(at, v)
	}
}

func (c *checker) field(at place, v reflect.Value) {
	r := rules[at.rule]
	switch {
	case v.IsZero() && r.required:
		c.missing(at, v.Type())
	case !v.IsZero() || v.Kind() == reflect.Struct || r.min > 0 && v.Kind() != reflect.Pointer:
		c.walk(at, v)
	}
}

// missing reports a required field that is not there, unless the section around it is wrong as a whole.
func (c *checker) missing(at place, t reflect.Type) {
	r := rules[at.rule]
	if !r.required || c.within(at.path) {
		return
	}
	hint := "give the " + strings.ToLower(r.doc[:1]) + strings.TrimSuffix(r.doc[1:], ".")
	if allowed := enums[t]; allowed != nil {
		hint = "write one of " + strings.Join(allowed, ", ")
	}
	c.addf(at.path, hint, "is missing")
}

func sortedKeys(m reflect.Value) []reflect.Value {
	keys := m.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int {
		if x, y := rank(a), rank(b); x != y {
			return x - y
		}
		return strings.Compare(a.String(), b.String())
	})
	return keys
}

// rank puts keys that have an order of their own (roles) into it.
func rank(key reflect.Value) int {
	return slices.Index(enums[key.Type()], key.String())
}
