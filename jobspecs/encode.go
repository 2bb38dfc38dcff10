package jobspecs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// Encode writes a deployment in its one canonical form: every key in the order of the types, defaults written out, maps
// sorted, text quoted unless it is plainly a word. Parse reads it back to an equal value. The form is this package's own
// and not a YAML library's, because Hash names revisions by it: an upgrade of a library must not restart replicas.
func Encode(d Deployment) []byte {
	var e encoder
	e.section(0, reflect.ValueOf(d))
	return []byte(e.String())
}

// Hash names a deployment by its content: the SHA-256 of its canonical form, in hex.
func Hash(d Deployment) string {
	sum := sha256.Sum256(Encode(d))
	return hex.EncodeToString(sum[:])
}

// ShortHash is the part of a Hash that is shown to people.
func ShortHash(hash string) string {
	return hash[:min(len(hash), 12)]
}

type encoder struct{ strings.Builder }

func (e *encoder) section(indent int, v reflect.Value) {
	for _, f := range fieldsOf(v.Type()) {
		if value := v.Field(f.index); !f.omitEmpty || !isEmpty(value) {
			e.entry(indent, f.key, value)
		}
	}
}

// isEmpty reports what can be left out without a loss. A section is empty when all its fields can be left out.
func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Map, reflect.Slice:
		return v.Len() == 0
	case reflect.Struct:
		return !slices.ContainsFunc(fieldsOf(v.Type()), func(f field) bool {
			return !f.omitEmpty || !isEmpty(v.Field(f.index))
		})
	}
	return v.IsZero()
}

func (e *encoder) entry(indent int, key string, v reflect.Value) {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	fmt.Fprintf(e, "%s%s:", strings.Repeat("  ", indent), word(key))
	switch v.Kind() {
	case reflect.Struct:
		e.WriteString("\n")
		e.section(indent+1, v)
	case reflect.Map:
		e.WriteString("\n")
		for _, k := range sortedKeys(v) {
			e.entry(indent+1, k.String(), v.MapIndex(k))
		}
	case reflect.Slice:
		e.WriteString("\n")
		for i := range v.Len() {
			e.item(indent+1, v.Index(i))
		}
	default:
		e.WriteString(" " + scalarText(v) + "\n")
	}
}

// item writes one entry of a list: a scalar, or a section whose first key stands behind the dash.
func (e *encoder) item(indent int, v reflect.Value) {
	dash := strings.Repeat("  ", indent) + "- "
	if v.Kind() != reflect.Struct {
		e.WriteString(dash + scalarText(v) + "\n")
		return
	}
	var inner encoder
	inner.section(indent+1, v)
	e.WriteString(dash + strings.TrimLeft(inner.String(), " "))
}

func scalarText(v reflect.Value) string {
	if v.Kind() == reflect.String {
		return word(v.String())
	}
	return fmt.Sprint(v.Interface())
}

var (
	plainWord = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9_./-]*$`)
	notText   = regexp.MustCompile(`(?i)^(y|n|yes|no|on|off|true|false|null)$`)
)

// word writes text as it is where no YAML reader could take it for anything else, and quoted otherwise.
func word(s string) string {
	if plainWord.MatchString(s) && !notText.MatchString(s) {
		return s
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, u := range s {
		switch {
		case u == '"' || u == '\\':
			b.WriteString(`\` + string(u))
		case u == '\n':
			b.WriteString(`\n`)
		case u == '\t':
			b.WriteString(`\t`)
		case unicode.IsPrint(u):
			b.WriteRune(u)
		default:
			b.WriteString(`\U` + fmt.Sprintf("%08X", u))
		}
	}
	b.WriteByte('"')
	return b.String()
}
