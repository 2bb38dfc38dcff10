// Package rawjson reads and edits JSON as bytes, so that what is not edited stays as it was: no field reordered, no number
// rounded, no escape rewritten.
//
// It knows nothing of requests or engines and keeps nothing: every function works on the slice that it is given. The
// gateway uses it on clients' bodies (Check, Parse, Object.Edit) and on engines' stream chunks (Members, Elements).
package rawjson

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"unicode/utf8"
)

// SyntaxError says where bytes stop being JSON.
type SyntaxError struct {
	Offset int // of the first byte that does not fit
	What   string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("invalid JSON at byte %d: %s", e.Offset, e.What)
}

// Check reports whether b is one JSON value (RFC 8259, in UTF-8) that is nested at most maxDepth deep.
func Check(b []byte, maxDepth int) error {
	if !utf8.Valid(b) {
		return &SyntaxError{invalidUTF8(b), "not UTF-8"}
	}
	end, err := value(b, space(b, 0), maxDepth)
	if err != nil {
		return err
	}
	if end = space(b, end); end != len(b) {
		return &SyntaxError{end, "something follows the value"}
	}
	return nil
}

// Skip returns the end of the value that begins at b[at], or -1 when there is none. It does not check UTF-8.
func Skip(b []byte, at int) int {
	end, err := value(b, at, skipDepth)
	if err != nil {
		return -1
	}
	return end
}

// skipDepth bounds the recursion for values that engines send.
const skipDepth = 256

func invalidUTF8(b []byte) int {
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(b)
}

func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// value returns the end of the value at i. depth is how many more levels may be opened.
func value(b []byte, i, depth int) (int, error) {
	if i >= len(b) {
		return 0, &SyntaxError{i, "a value is missing"}
	}
	switch c := b[i]; {
	case c == '"':
		return str(b, i)
	case c == '{':
		return object(b, i, depth)
	case c == '[':
		return array(b, i, depth)
	case c == 't':
		return literal(b, i, "true")
	case c == 'f':
		return literal(b, i, "false")
	case c == 'n':
		return literal(b, i, "null")
	case c == '-' || c >= '0' && c <= '9':
		return number(b, i)
	}
	return 0, &SyntaxError{i, "a value cannot begin so"}
}

func object(b []byte, i, depth int) (int, error) {
	if depth == 0 {
		return 0, &SyntaxError{i, "nested too deep"}
	}
	if i = space(b, i+1); i < len(b) && b[i] == '}' {
		return i + 1, nil
	}
	for {
		if i >= len(b) || b[i] != '"' {
			return 0, &SyntaxError{i, "a field name is missing"}
		}
		end, err := str(b, i)
		if err != nil {
			return 0, err
		}
		if i = space(b, end); i >= len(b) || b[i] != ':' {
			return 0, &SyntaxError{i, "a colon is missing"}
		}
		if end, err = value(b, space(b, i+1), depth-1); err != nil {
			return 0, err
		}
		if i = space(b, end); i < len(b) && b[i] == '}' {
			return i + 1, nil
		}
		if i >= len(b) || b[i] != ',' {
			return 0, &SyntaxError{i, "a comma or } is missing"}
		}
		i = space(b, i+1)
	}
}

func array(b []byte, i, depth int) (int, error) {
	if depth == 0 {
		return 0, &SyntaxError{i, "nested too deep"}
	}
	if i = space(b, i+1); i < len(b) && b[i] == ']' {
		return i + 1, nil
	}
	for {
		end, err := value(b, i, depth-1)
		if err != nil {
			return 0, err
		}
		if i = space(b, end); i < len(b) && b[i] == ']' {
			return i + 1, nil
		}
		if i >= len(b) || b[i] != ',' {
			return 0, &SyntaxError{i, "a comma or ] is missing"}
		}
		i = space(b, i+1)
	}
}

func literal(b []byte, i int, want string) (int, error) {
	if len(b)-i < len(want) || string(b[i:i+len(want)]) != want {
		return 0, &SyntaxError{i, "a value cannot begin so"}
	}
	return i + len(want), nil
}

func number(b []byte, i int) (int, error) {
	if b[i] == '-' {
		i++
	}
	switch {
	case i < len(b) && b[i] == '0':
		i++
	case digit(b, i):
		i = digits(b, i)
	default:
		return 0, &SyntaxError{i, "a number has no digits"}
	}
	if i < len(b) && b[i] == '.' {
		if i++; !digit(b, i) {
			return 0, &SyntaxError{i, "a number has no digits after its point"}
		}
		i = digits(b, i)
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if !digit(b, i) {
			return 0, &SyntaxError{i, "a number has no digits in its exponent"}
		}
		i = digits(b, i)
	}
	return i, nil
}

func digit(b []byte, i int) bool { return i < len(b) && b[i] >= '0' && b[i] <= '9' }

func digits(b []byte, i int) int {
	for digit(b, i) {
		i++
	}
	return i
}

// str returns the end of the string whose opening quote is at i.
func str(b []byte, i int) (int, error) {
	start := i
	for i++; i < len(b); {
		i = plain(b, i)
		if i >= len(b) {
			break
		}
		switch c := b[i]; {
		case c == '"':
			return i + 1, nil
		case c < 0x20:
			return 0, &SyntaxError{i, "a control character stands in a string"}
		case c != '\\':
			i++
		default:
			n := escape(b, i)
			if n == 0 {
				return 0, &SyntaxError{i, "no such escape"}
			}
			i += n
		}
	}
	return 0, &SyntaxError{start, "a string has no end"}
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// plain skips bytes of a string that mean themselves, eight at a time. It may stop early, never late.
func plain(b []byte, i int) int {
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		quote, slash := x^(ones*'"'), x^(ones*'\\')
		stop := ((quote-ones)&^quote | (slash-ones)&^slash | (x-ones*0x20)&^x) & highs
		if stop != 0 {
			return i + bits.TrailingZeros64(stop)/8
		}
	}
	return i
}

// escape returns the length of the escape at i, 0 when there is none.
func escape(b []byte, i int) int {
	if i+1 >= len(b) {
		return 0
	}
	switch b[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if _, ok := hex4(b, i+2); ok {
			return 6
		}
	}
	return 0
}

func hex4(b []byte, i int) (r rune, ok bool) {
	if i+4 > len(b) {
		return 0, false
	}
	for _, c := range b[i : i+4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}
