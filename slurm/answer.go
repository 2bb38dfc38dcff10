package slurm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
)

// number is what releases write for a number: 7, "7", null, or {"set":true,"infinite":false,"number":7}.
type number struct {
	n             int64
	set, infinite bool
}

// UnmarshalJSON reads all of these forms.
func (v *number) UnmarshalJSON(b []byte) error {
	*v = number{}
	switch {
	case string(b) == "null":
		return nil
	case b[0] == '{':
		var o struct {
			Set      bool
			Infinite bool
			Number   json.Number
		}
		if err := json.Unmarshal(b, &o); err != nil {
			return err
		}
		*v = number{set: o.Set, infinite: o.Infinite}
		return v.read(o.Number.String())
	}
	v.set = true
	return v.read(strings.Trim(string(b), `"`))
}

func (v *number) read(text string) error {
	if text == "" {
		v.set = false
		return nil
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		v.n = n
		return nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(f) || math.Abs(f) >= 1<<53 {
		return fmt.Errorf("%q is no number", cut(text))
	}
	v.n = int64(f)
	return nil
}

// Slurm's numbers that are none, where a release writes them plainly.
const (
	infinite32 = 1<<32 - 1
	noValue32  = 1<<32 - 2
)

// unlimited tells whether a time limit is none.
func (v number) unlimited() bool {
	return v.infinite || v.set && (v.n < 0 || v.n == infinite32 || v.n == noValue32)
}

// list is a string, a list of strings, or null.
type list []string

// UnmarshalJSON reads all of these forms.
func (l *list) UnmarshalJSON(b []byte) error {
	if b[0] == '"' {
		var s string
		err := json.Unmarshal(b, &s)
		*l = nil
		if s != "" {
			*l = list{s}
		}
		return err
	}
	return json.Unmarshal(b, (*[]string)(l))
}

// exitValue is the status of wait(2), or an object that tells code and signal apart.
type exitValue struct{ status }

// UnmarshalJSON reads both forms.
func (e *exitValue) UnmarshalJSON(b []byte) error {
	e.status = status{}
	if b[0] != '{' {
		var n number
		if err := n.UnmarshalJSON(b); err != nil {
			return err
		}
		if n.set && n.n >= 0 && n.n < noValue32 {
			e.status = status{code: int(n.n >> 8 & 0xff), signal: int(n.n & 0x7f), known: true}
		}
		return nil
	}
	var o struct {
		Code   number `json:"return_code"`
		Signal struct {
			ID number `json:"id"`
		} `json:"signal"`
	}
	if err := json.Unmarshal(b, &o); err != nil {
		return err
	}
	e.status = status{known: true}
	if o.Code.set && o.Code.n >= 0 && o.Code.n < 1<<16 {
		e.code = int(o.Code.n)
	}
	if o.Signal.ID.set && o.Signal.ID.n > 0 && o.Signal.ID.n < 1<<16 {
		e.signal = int(o.Signal.ID.n)
	}
	return nil
}

// fault is an error in an answer; its parts have moved between releases.
type fault struct {
	Error       string
	Message     string
	Description string
	Number      number `json:"error_number"`
	Code        number `json:"error_code"`
	Other       number `json:"code"`
}

func (f fault) words() string {
	for _, text := range []string{f.Error, f.Message} {
		if text != "" && f.Description != "" && text != f.Description {
			return text + ": " + f.Description
		} else if text != "" {
			return text
		}
	}
	if f.Description != "" {
		return f.Description
	}
	return fmt.Sprintf("error %d", max(f.Number.n, f.Code.n, f.Other.n))
}

// faults are an answer's errors; null is none.
type faults []fault

func (l faults) words() string {
	var all []string
	for _, f := range l {
		all = append(all, f.words())
	}
	text := strings.ToValidUTF8(strings.Join(all, "; "), "?")
	return text[:min(len(text), maxFault)]
}

const maxFault = 2000

// refusalOf is what an answer other than 200 means. Only what Slurm itself says is a *failure; anything else came from who knows
// where on the way.
func refusalOf(code int, text []byte) error {
	var answer struct{ Errors faults }
	_ = json.Unmarshal(text, &answer)
	words := answer.Errors.words()
	switch {
	case code == http.StatusUnauthorized:
		words = "slurmrestd does not accept who asks: the token has run out, or is another user's (`scontrol token` makes a new one)"
	case code == http.StatusNotFound && words == "":
		words = "not found"
	case words == "":
		return fmt.Errorf("slurmrestd answers with HTTP %d and no reason", code)
	}
	return &failure{"slurmrestd", code, words}
}

// readAnswer decodes a whole small answer; errors in it are a *failure.
func readAnswer(body io.ReadCloser, into interface{ problems() faults }) error {
	defer body.Close()
	if err := json.NewDecoder(body).Decode(into); err != nil {
		return fmt.Errorf("slurmrestd's answer: %w", err)
	}
	if p := into.problems(); len(p) > 0 {
		return &failure{"slurmrestd", http.StatusOK, p.words()}
	}
	return nil
}

// errorsOf is the part that all answers have.
type errorsOf struct{ Errors faults }

func (e errorsOf) problems() faults { return e.Errors }

// eachOf reads an answer's long list one element after the other, since some lists are hundreds of megabytes, and its errors.
// The list may be null. An answer that ends early, or in which the list is missing, is an error.
func eachOf[T any](body io.Reader, name string, take func(T) error) error {
	d := json.NewDecoder(body)
	if err := expect(d, '{'); err != nil {
		return err
	}
	found, problems := false, faults(nil)
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		switch key {
		case name:
			found = true
			err = elements(d, take)
		case "errors":
			err = d.Decode(&problems)
		default:
			var skipped json.RawMessage
			err = d.Decode(&skipped)
		}
		if err != nil {
			return err
		}
	}
	if err := expect(d, '}'); err != nil {
		return err
	}
	switch {
	case len(problems) > 0:
		return &failure{"slurmrestd", http.StatusOK, problems.words()}
	case !found:
		return fmt.Errorf("there is no %q in it", name)
	}
	return nil
}

func elements[T any](d *json.Decoder, take func(T) error) error {
	first, err := d.Token()
	if err != nil || first == nil {
		return err
	}
	if first != json.Delim('[') {
		return errors.New("a list begins with something else")
	}
	for d.More() {
		var v T
		if err := d.Decode(&v); err != nil {
			return err
		}
		if err := take(v); err != nil {
			return err
		}
	}
	return expect(d, ']')
}

func expect(d *json.Decoder, want json.Delim) error {
	got, err := d.Token()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%v stands where %v should", got, want)
	}
	return nil
}

// either decodes a string, or an object.
func either(b []byte, object any) (text string, err error) {
	if b[0] == '"' {
		err = json.Unmarshal(b, &text)
		return text, err
	}
	return "", json.Unmarshal(b, object)
}
