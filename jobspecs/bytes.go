package jobspecs

import (
	"fmt"
	"math/big"
	"regexp"
	"strconv"
	"strings"
)

// Bytes is a size in bytes, at most 2^63-1. In the file: a number with B, KB, MB, GB, TB (1000) or KiB, MiB, GiB, TiB
// (1024). A bare number is refused, because 64 may mean bytes to one reader and gigabytes to another; only 0 needs no
// unit.
type Bytes uint64

// bytesPattern is what ParseBytes reads; the schema shows it to editors.
const bytesPattern = `^([0-9]+(\.[0-9]+)?(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)|0)$`

var numberAndUnit = regexp.MustCompile(`^([0-9]{1,20}(?:\.[0-9]{1,20})?) ?([A-Za-z]*)$`)

// byteUnits lists the units in the order in which String tries them: largest first, 1024 before 1000.
var byteUnits = []struct {
	name string
	size uint64
}{
	{"TiB", 1 << 40},
	{"TB", 1e12},
	{"GiB", 1 << 30},
	{"GB", 1e9},
	{"MiB", 1 << 20},
	{"MB", 1e6},
	{"KiB", 1 << 10},
	{"KB", 1e3},
	{"B", 1},
}

// ParseBytes reads a size as the deployment file writes it.
func ParseBytes(s string) (Bytes, error) {
	if s == "0" {
		return 0, nil
	}
	m := numberAndUnit.FindStringSubmatch(s)
	if m == nil {
		return 0, complaint{quote(s) + " is no size", "write a number and a unit, such as 64GiB or 500MB"}
	}
	size, ok := unitSize(m[2])
	if !ok {
		return 0, unitComplaint(s, m[1], m[2])
	}
	if strings.Contains(s, " ") {
		return 0, complaint{quote(s) + " has a blank between number and unit", "write " + m[1] + m[2]}
	}
	exact, _ := new(big.Rat).SetString(m[1])
	exact.Mul(exact, new(big.Rat).SetInt(new(big.Int).SetUint64(size)))
	if !exact.IsInt() {
		return 0, complaint{quote(s) + " is no whole number of bytes", "use a smaller unit"}
	}
	if !exact.Num().IsInt64() {
		return 0, complaint{quote(s) + " is too large", "the largest size is 8388607TiB"}
	}
	return Bytes(exact.Num().Uint64()), nil
}

func unitSize(name string) (uint64, bool) {
	for _, u := range byteUnits {
		if u.name == name {
			return u.size, true
		}
	}
	return 0, false
}

// unitComplaint explains a missing or wrong unit: 64, 64G and 64gib are what people bring from other tools.
func unitComplaint(s, number, unit string) complaint {
	if unit == "" {
		return complaint{quote(s) + " has no unit", fmt.Sprintf("write %[1]sGiB (1024) or %[1]sGB (1000), or %[1]sB for bytes", number)}
	}
	for _, u := range byteUnits {
		if strings.EqualFold(u.name, unit) {
			return complaint{quote(s) + " has no known unit", "write " + number + u.name}
		}
	}
	if letter := strings.ToUpper(unit); strings.Contains("KMGT", letter) {
		return complaint{quote(s) + " has no known unit", fmt.Sprintf("write %[1]s%[2]siB (1024) or %[1]s%[2]sB (1000)", number, letter)}
	}
	return complaint{quote(s) + " has no known unit", "known are B, KB, MB, GB, TB (1000) and KiB, MiB, GiB, TiB (1024)"}
}

// String is the shortest exact form: ParseBytes reads it back to the same value.
func (b Bytes) String() string {
	best := strconv.FormatUint(uint64(b), 10) + "B"
	for _, u := range byteUnits {
		if b > 0 && uint64(b)%u.size == 0 {
			if s := strconv.FormatUint(uint64(b)/u.size, 10) + u.name; len(s) < len(best) {
				best = s
			}
		}
	}
	return best
}

// Human is a rounded form for tables, such as "79.6 GiB". It can't be read back.
func (b Bytes) Human() string {
	for _, u := range byteUnits {
		if strings.HasSuffix(u.name, "iB") && uint64(b) >= u.size {
			return fmt.Sprintf("%.1f %s", float64(b)/float64(u.size), u.name)
		}
	}
	return fmt.Sprintf("%d B", uint64(b))
}

// MarshalText writes String's form, in YAML and JSON alike.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads ParseBytes's form, in YAML and JSON alike.
func (b *Bytes) UnmarshalText(text []byte) error {
	parsed, err := ParseBytes(string(text))
	if err == nil {
		*b = parsed
	}
	return err
}
