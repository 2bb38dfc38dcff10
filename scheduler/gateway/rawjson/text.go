package rawjson

import (
	"unicode/utf16"
	"unicode/utf8"
)

// AppendText appends to dst the text of a JSON string, given without its quotes. exact is false when the string holds half
// a surrogate pair, which no UTF-8 text can hold: U+FFFD stands there then.
func AppendText(dst, raw []byte) (text []byte, exact bool) {
	exact = true
	for i := 0; i < len(raw); {
		if raw[i] != '\\' {
			start := i
			for i < len(raw) && raw[i] != '\\' {
				i++
			}
			dst = append(dst, raw[start:i]...)
			continue
		}
		if i+1 >= len(raw) {
			return dst, false
		}
		if raw[i+1] != 'u' {
			dst = append(dst, unescape(raw[i+1]))
			i += 2
			continue
		}
		r, n := unicodeEscape(raw, i)
		if n == 0 {
			return dst, false
		}
		if utf16.IsSurrogate(r) {
			r, exact = utf8.RuneError, false
		}
		dst = utf8.AppendRune(dst, r)
		i += n
	}
	return dst, exact
}

func unescape(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return c
}

// unicodeEscape reads the \uXXXX at i, two of them where they make a pair. n is how many bytes that took, 0 = no escape.
func unicodeEscape(raw []byte, i int) (r rune, n int) {
	r, ok := hex4(raw, i+2)
	if !ok {
		return 0, 0
	}
	if utf16.IsSurrogate(r) && i+12 <= len(raw) && raw[i+6] == '\\' && raw[i+7] == 'u' {
		low, _ := hex4(raw, i+8)
		if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
			return pair, 12
		}
	}
	return r, 6
}

// AppendString appends text as a JSON string with its quotes. Only what JSON demands is escaped.
func AppendString(dst, text []byte) []byte {
	dst = append(dst, '"')
	for _, c := range text {
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c < 0x20:
			dst = append(dst, '\\', 'u', '0', '0', '0'+c>>4, "0123456789abcdef"[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}
