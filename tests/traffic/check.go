package traffic

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/penstock/penstock/tests/installation"
)

// Verdict is what became of one request.
type Verdict int

// The verdicts. From Lost on, they fail the test.
const (
	Complete Verdict = iota
	Refused          // with an error that says what to do
	Broken           // its gateway has ended
	Lost
	Altered
	Doubled
)

// judge compares an answer with what is known. dead: the gateway that it went through was killed.
func judge(p *Prompt, a installation.Answer, err error, dead bool) (Verdict, string) {
	if v, why := compare(p, a, err == nil); v != Complete {
		return v, why
	}
	var no *installation.RefusedError
	switch {
	case err == nil:
		return Complete, ""
	case errors.As(err, &no):
		return clear(no)
	case dead:
		return Broken, ""
	}
	return Lost, err.Error()
}

// compare looks at the text: all of it where the answer is whole, else as much as there is.
func compare(p *Prompt, a installation.Answer, whole bool) (Verdict, string) {
	want := p.Want.Text
	if !whole && len(a.Text) < len(want) {
		want = want[:len(a.Text)]
	}
	switch {
	case a.Text != want:
		return differs(a.Text, p.Want.Text)
	case whole && a.Finish != p.Want.Finish:
		return Altered, fmt.Sprintf("finish reason %q instead of %q", a.Finish, p.Want.Finish)
	case whole && p.usage() && (a.Completion != p.Want.Completion || a.Prompt != p.Want.Prompt):
		return Altered, fmt.Sprintf("usage of %d and %d tokens instead of %d and %d", a.Prompt, a.Completion, p.Want.Prompt, p.Want.Completion)
	}
	return Complete, ""
}

// differs tells text that came twice from text that is wrong.
func differs(got, want string) (Verdict, string) {
	at := 0
	for at < len(got) && at < len(want) && got[at] == want[at] {
		at++
	}
	around := fmt.Sprintf("differs after %d bytes: %.60q instead of %.60q", at, got[at:], want[at:])
	const piece = 6 // bytes that are no coincidence
	for back := min(at, 400); back > 0; back-- {
		if again := want[at-back:]; len(got)-at >= piece && strings.HasPrefix(again, got[at:at+piece]) {
			return Doubled, around
		}
	}
	return Altered, around
}

// clear checks that a refusal says what is wrong and, where that may pass, when to come again.
func clear(e *installation.RefusedError) (Verdict, string) {
	var body struct {
		Error struct{ Message, Code, Type string }
	}
	err := json.Unmarshal([]byte(e.Body), &body)
	switch {
	case err != nil || body.Error.Message == "" || body.Error.Type == "" || body.Error.Code == "":
		return Lost, "unclear refusal: " + e.Error()
	case e.Status != http.StatusServiceUnavailable && e.Status != http.StatusTooManyRequests:
		return Lost, "wrong refusal: " + e.Error()
	case e.Header.Get("Retry-After") == "":
		return Lost, "refusal without Retry-After: " + e.Error()
	}
	return Refused, ""
}
