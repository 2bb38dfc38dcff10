package main

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
)

// report collects figures and prints each at once.
type report struct {
	out  io.Writer
	text bytes.Buffer
}

// direction says which way a figure is better.
type direction bool

const (
	less direction = true
	more direction = false
)

// figure prints one line. The ratio is made so that more is better. A value of nothing, which is noise, counts as little.
func (r *report) figure(name string, value float64, unit, reference string, ref float64, better direction) {
	const smallest = 0.05
	ratio := max(value, smallest) / max(ref, smallest)
	if better == less {
		ratio = 1 / ratio
	}
	r.line(fmt.Sprintf("BENCH %s %s %s %s %s %s", name, number(value), unit, reference, number(ref), number(ratio)))
}

// added prints what was added to a time. Its reference is the time without it, and the ratio how much of the speed is left.
func (r *report) added(name string, added float64, unit, reference string, without float64) {
	ratio := without / max(without+added, 1e-9)
	r.line(fmt.Sprintf("BENCH %s %s %s %s %s %s", name, number(added), unit, reference, number(without), number(ratio)))
}

// note prints a remark.
func (r *report) note(format string, args ...any) { r.line("# " + fmt.Sprintf(format, args...)) }

func (r *report) line(s string) {
	fmt.Fprintln(r.out, s)
	fmt.Fprintln(&r.text, s)
}

// number prints three significant digits, and all of those before the point.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100 || a == 0:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}

// save writes the lines as a document.
func (r *report) save(path string) error {
	text := "# Figures\n\nWhat `make bench` printed at the last recording (`go run ./tests/bench -record`). The package's documentation in\n" +
		"`main.go` says how each figure is taken.\n\n```\n" + r.text.String() + "```\n"
	return os.WriteFile(path, []byte(text), 0o644)
}

// median of some values; NaN of none.
func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// quantile of sorted values; NaN of none.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}
