package sim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// FailureKind names a way in which the simulated engine can fail on request.
type FailureKind string

// The failures. Each is written KIND or KIND:ARG or KIND:ARG,ARG; see failureSyntax.
const (
	CrashLoading  FailureKind = "crash-loading"     // ends after BYTES of weights with CODE
	StallLoading  FailureKind = "stall-loading"     // reads BYTES of weights and then no more
	Exit          FailureKind = "exit"              // ends at once with CODE
	Hang          FailureKind = "hang"              // accepts requests and never answers: all, or inference only
	HangAfter     FailureKind = "hang-after-tokens" // generates N tokens more, then none
	DieAfter      FailureKind = "die-after-tokens"  // generates N tokens more, then ends with CODE, cutting all streams
	Slow          FailureKind = "slow"              // steps take FACTOR times as long
	Refuse        FailureKind = "refuse"            // answers inference with 500 with probability P, drawn from SEED
	WrongKV       FailureKind = "wrong-kv"          // spoils every Nth block that it stores
	IgnoreTERM    FailureKind = "ignore-term"       // goes on after being told to end
	Grandchild    FailureKind = "grandchild"        // starts a detached process that lives SECONDS
	LieMetrics    FailureKind = "lie-metrics"       // reports no load at all
	allRequests               = "all"
	inferenceOnly             = "inference"
)

// argument is what one argument of a failure may be.
type argument struct {
	name     string
	fallback string // empty: required
	check    func(string) error
}

// failureSyntax is the table of kinds and their arguments.
var failureSyntax = map[FailureKind][]argument{
	CrashLoading: {{"BYTES", "0", isSize}, {"CODE", "1", isCode}},
	StallLoading: {{"BYTES", "0", isSize}},
	Exit:         {{"CODE", "1", isCode}},
	Hang:         {{"WHAT", allRequests, isScope}},
	HangAfter:    {{"TOKENS", "", isCount}},
	DieAfter:     {{"TOKENS", "", isCount}, {"CODE", "1", isCode}},
	Slow:         {{"FACTOR", "", isFactor}},
	Refuse:       {{"PROBABILITY", "1", isProbability}, {"SEED", "1", isCount}},
	WrongKV:      {{"EVERY", "1", isPositive}},
	IgnoreTERM:   {},
	Grandchild:   {{"SECONDS", "600", isPositive}},
	LieMetrics:   {},
}

// Failure is one failure to simulate, from ParseFailure.
type Failure struct {
	Kind FailureKind
	args []string // one per argument of the kind
}

// ParseFailure reads KIND[:ARG[,ARG]].
func ParseFailure(spec string) (Failure, error) {
	kind, rest, given := strings.Cut(spec, ":")
	syntax, ok := failureSyntax[FailureKind(kind)]
	if !ok {
		return Failure{}, fmt.Errorf("failure %q: unknown kind %q; known: %s", spec, kind, strings.Join(failureKinds(), ", "))
	}
	var args []string
	if given {
		args = strings.Split(rest, ",")
	}
	if len(args) > len(syntax) {
		return Failure{}, fmt.Errorf("failure %q: %s takes at most %d arguments", spec, kind, len(syntax))
	}
	f := Failure{Kind: FailureKind(kind)}
	for i, a := range syntax {
		value := a.fallback
		if i < len(args) {
			value = args[i]
		}
		if err := a.check(value); err != nil {
			return Failure{}, fmt.Errorf("failure %q: %s: %w", spec, a.name, err)
		}
		f.args = append(f.args, value)
	}
	return f, nil
}

// String is the failure as ParseFailure reads it.
func (f Failure) String() string {
	if len(f.args) == 0 {
		return string(f.Kind)
	}
	return string(f.Kind) + ":" + strings.Join(f.args, ",")
}

// number is argument i, which ParseFailure checked.
func (f Failure) number(i int) float64 {
	n, _ := strconv.ParseFloat(f.args[i], 64)
	return n
}

func failureKinds() []string {
	var out []string
	for k := range failureSyntax {
		out = append(out, string(k))
	}
	slices.Sort(out)
	return out
}

func isSize(s string) error     { return inRange(s, 0, 1<<62, "a number of bytes") }
func isCount(s string) error    { return inRange(s, 0, 1<<53, "a whole number") }
func isPositive(s string) error { return inRange(s, 1, 1<<31, "a whole number above 0") }
func isCode(s string) error     { return inRange(s, 1, 255, "an exit code from 1 to 255") }

func inRange(s string, from, to int64, what string) error {
	if n, err := strconv.ParseInt(s, 10, 64); err != nil || n < from || n > to {
		return fmt.Errorf("must be %s (got %q)", what, s)
	}
	return nil
}

func isFactor(s string) error {
	if n, err := strconv.ParseFloat(s, 64); err != nil || !(n > 0 && n <= 1e6) {
		return fmt.Errorf("must be a number above 0 (got %q)", s)
	}
	return nil
}

func isProbability(s string) error {
	if n, err := strconv.ParseFloat(s, 64); err != nil || !(n >= 0 && n <= 1) {
		return fmt.Errorf("must be from 0 to 1 (got %q)", s)
	}
	return nil
}

func isScope(s string) error {
	if s != allRequests && s != inferenceOnly {
		return fmt.Errorf("must be %s or %s (got %q)", allRequests, inferenceOnly, s)
	}
	return nil
}
