package jobspecs

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Duration is a span of time, never negative. In the file: as Go writes it (1m30s, 250ms), also with d for whole days in
// front (2d, 1d12h). A bare number is refused, because Slurm would read minutes and most others seconds; only 0 needs no
// unit.
type Duration time.Duration

// durationPattern is what ParseDuration reads; the schema shows it to editors.
const durationPattern = `^([0-9]+d)?((?:[0-9]+(?:\.[0-9]+)?(?:ns|us|µs|ms|s|m|h))*)$`

const day = 24 * time.Hour

var (
	bareNumber = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?$`)
	spanForm   = regexp.MustCompile(durationPattern)
	clockForm  = regexp.MustCompile(`^(?:([0-9]+)-)?([0-9]+):([0-9]+)(?::([0-9]+))?$`)
)

// ParseDuration reads a span of time as the deployment file writes it.
func ParseDuration(s string) (Duration, error) {
	if s == "0" {
		return 0, nil
	}
	if bareNumber.MatchString(s) {
		return 0, complaint{quote(s) + " has no unit", "write " + s + "ms, " + s + "s, " + s + "m or " + s + "h"}
	}
	if m := clockForm.FindStringSubmatch(s); m != nil {
		return 0, complaint{quote(s) + " is no span of time", "write " + clockHint(m)}
	}
	m := spanForm.FindStringSubmatch(s)
	if m == nil || s == "" {
		return 0, complaint{quote(s) + " is no span of time", "write a number and a unit, such as 90s, 1m30s, 12h or 2d"}
	}
	days, err := strconv.ParseInt("0"+strings.TrimSuffix(m[1], "d"), 10, 64)
	rest := time.Duration(0)
	if err == nil && m[2] != "" {
		rest, err = time.ParseDuration(m[2])
	}
	if err != nil || days > maxDays || rest > maxDays*day || time.Duration(days)*day+rest > maxDays*day {
		return 0, complaint{quote(s) + " is too long", "the longest span is 36500d"}
	}
	return Duration(time.Duration(days)*day + rest), nil
}

const maxDays = 36500

// clockHint turns the clock form that sbatch takes (1-12:00:00) into ours. HH:MM:SS, but MM:SS as in Slurm.
func clockHint(m []string) string {
	units := []string{"d", "h", "m", "s"}
	parts := m[1:]
	if m[4] == "" && m[1] == "" {
		parts = []string{"", "", m[2], m[3]}
	}
	var b strings.Builder
	for i, p := range parts {
		if p = strings.TrimLeft(p, "0"); p != "" {
			b.WriteString(p + units[i])
		}
	}
	if b.Len() == 0 {
		return "0s"
	}
	return b.String()
}

// Std is the standard library's form of d.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String is the shortest exact form: ParseDuration reads it back to the same value.
func (d Duration) String() string {
	rest := time.Duration(d)
	var b strings.Builder
	for _, u := range []struct {
		name string
		size time.Duration
	}{{"d", day}, {"h", time.Hour}, {"m", time.Minute}} {
		if n := rest / u.size; n > 0 {
			b.WriteString(strconv.FormatInt(int64(n), 10) + u.name)
			rest %= u.size
		}
	}
	if rest > 0 || b.Len() == 0 {
		b.WriteString(rest.String())
	}
	return b.String()
}

// MarshalText writes String's form, in YAML and JSON alike.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads ParseDuration's form, in YAML and JSON alike.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := ParseDuration(string(text))
	if err == nil {
		*d = parsed
	}
	return err
}
