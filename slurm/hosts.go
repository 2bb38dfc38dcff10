package slurm

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// maxHosts bounds what one list of nodes may stand for: more than any cluster has.
const maxHosts = 1 << 17

var errTooManyHosts = errors.New("more nodes than any cluster has")

// Hosts takes a list of nodes apart, as SLURM_JOB_NODELIST holds it.
func Hosts(list string) ([]string, error) { return expandHosts(list) }

// expandHosts takes a list of nodes apart: node[1-3,7],gpu-[01-02]-ib becomes the single names. An empty list, and what Slurm
// writes for none, are none.
func expandHosts(list string) (names []string, err error) {
	if list == "" || list == "(null)" || list == "None assigned" || list == "n/a" {
		return nil, nil
	}
	for _, part := range splitOutside(list) {
		more, err := expandOne(part, maxHosts-len(names))
		if err != nil {
			return nil, fmt.Errorf("list of nodes %q: %w", cut(list), err)
		}
		names = append(names, more...)
	}
	return names, nil
}

// splitOutside splits at commas outside of brackets.
func splitOutside(list string) (parts []string) {
	depth, from := 0, 0
	for i, c := range list {
		switch {
		case c == '[':
			depth++
		case c == ']':
			depth--
		case c == ',' && depth == 0:
			parts = append(parts, list[from:i])
			from = i + 1
		}
	}
	return append(parts, list[from:])
}

// expandOne expands a name with any number of bracketed parts.
func expandOne(name string, most int) ([]string, error) {
	head, rest, found := strings.Cut(name, "[")
	if !found {
		if name == "" || strings.ContainsAny(name, "]") || most < 1 {
			return nil, fmt.Errorf("%q is no node", cut(name))
		}
		return []string{name}, nil
	}
	ranges, tail, closed := strings.Cut(rest, "]")
	if !closed || strings.Contains(ranges, "[") {
		return nil, errors.New("brackets do not match")
	}
	numbers, err := expandRanges(ranges, most)
	if err != nil {
		return nil, err
	}
	tails := []string{""}
	if tail != "" {
		if tails, err = expandOne(tail, most); err != nil {
			return nil, err
		}
	}
	if len(numbers)*len(tails) > most {
		return nil, errTooManyHosts
	}
	var names []string
	for _, n := range numbers {
		for _, t := range tails {
			names = append(names, head+n+t)
		}
	}
	return names, nil
}

// expandRanges expands 1-3,07,10-12. Zeroes in front count as width.
func expandRanges(text string, most int) (numbers []string, err error) {
	for part := range strings.SplitSeq(text, ",") {
		from, to, span := strings.Cut(part, "-")
		if !span {
			to = from
		}
		a, err1 := strconv.ParseUint(from, 10, 31)
		b, err2 := strconv.ParseUint(to, 10, 31)
		if err1 != nil || err2 != nil || a > b || len(from) > 16 {
			return nil, fmt.Errorf("%q is no range of numbers", cut(part))
		}
		if b-a >= uint64(most-len(numbers)) {
			return nil, errTooManyHosts
		}
		for n := a; n <= b; n++ {
			numbers = append(numbers, fmt.Sprintf("%0*d", len(from), n))
		}
	}
	return numbers, nil
}
