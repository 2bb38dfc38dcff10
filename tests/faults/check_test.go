package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/penstock/penstock/tests/installation"
)

// verdict is what became of one request.
type verdict int

const (
	complete verdict = iota
	refused          // with an error that says what to do
	broken           // its gateway has ended
	lost
	altered
	doubled
)

// judge compares an answer with what is known. dead: the gateway that it went through was killed.
func judge(p *prompt, a installation.Answer, err error, dead bool) (verdict, string) {
	if v, why := compare(p, a, err == nil); v != complete {
		return v, why
	}
	var no *installation.RefusedError
	switch {
	case err == nil:
		return complete, ""
	case errors.As(err, &no):
		return clear(no)
	case dead:
		return broken, ""
	}
	return lost, err.Error()
}

// compare looks at the text: all of it where the answer is whole, else as much as there is.
func compare(p *prompt, a installation.Answer, whole bool) (verdict, string) {
	want := p.want.Text
	if !whole && len(a.Text) < len(want) {
		want = want[:len(a.Text)]
	}
	switch {
	case a.Text != want:
		return differs(a.Text, p.want.Text)
	case whole && a.Finish != p.want.Finish:
		return altered, fmt.Sprintf("finish reason %q instead of %q", a.Finish, p.want.Finish)
	case whole && p.usage() && (a.Completion != p.want.Completion || a.Prompt != p.want.Prompt):
		return altered, fmt.Sprintf("usage of %d and %d tokens instead of %d and %d", a.Prompt, a.Completion, p.want.Prompt, p.want.Completion)
	}
	return complete, ""
}

// differs tells text that came twice from text that is wrong.
func differs(got, want string) (verdict, string) {
	at := 0
	for at < len(got) && at < len(want) && got[at] == want[at] {
		at++
	}
	around := fmt.Sprintf("differs after %d bytes: %.60q instead of %.60q", at, got[at:], want[at:])
	const piece = 6 // bytes that are no coincidence
	for back := min(at, 400); back > 0; back-- {
		if again := want[at-back:]; len(got)-at >= piece && strings.HasPrefix(again, got[at:at+piece]) {
			return doubled, around
		}
	}
	return altered, around
}

// clear checks that a refusal says what is wrong and, where that may pass, when to come again.
func clear(e *installation.RefusedError) (verdict, string) {
	var body struct {
		Error struct{ Message, Code, Type string }
	}
	err := json.Unmarshal([]byte(e.Body), &body)
	switch {
	case err != nil || body.Error.Message == "" || body.Error.Type == "" || body.Error.Code == "":
		return lost, "unclear refusal: " + e.Error()
	case e.Status != http.StatusServiceUnavailable && e.Status != http.StatusTooManyRequests:
		return lost, "wrong refusal: " + e.Error()
	case e.Header.Get("Retry-After") == "":
		return lost, "refusal without Retry-After: " + e.Error()
	}
	return refused, ""
}
