// Command suites runs the project's test suites one after the other, prints the seconds of each, and ends with one plain
// line: N passed, N failed, N skipped. A skip that is not named with its reason in tests/skips.txt is a failure when the
// suites run as root, because root can install whatever a test needs.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"sort"
	"strings"
	"time"
)

func main() {
	slow := flag.Bool("slow", false, "run the suites of `make test-slow`")
	onSlurm := flag.Bool("slurm", false, "run the suites of `make test-slurm`")
	onNomad := flag.Bool("nomad", false, "run the suites of `make test-nomad`")
	only := flag.String("only", "", "run only the suite of this name")
	verbose := flag.Bool("v", false, "print every test")
	flag.Parse()
	allowed, err := readSkips("tests/skips.txt")
	if err != nil {
		fmt.Fprintln(os.Stderr, "suites:", err)
		os.Exit(2)
	}
	suites := quickSuites
	if *slow {
		suites = slowSuites
	}
	if *onSlurm {
		suites = slurmSuites
	}
	if *onNomad {
		suites = nomadSuites
	}
	os.Exit(runAll(suites, *only, *verbose, allowed))
}

func runAll(suites []suite, only string, verbose bool, allowed []skip) int {
	var all tally
	for _, s := range suites {
		if only != "" && s.Name != only {
			continue
		}
		fmt.Printf("=== %s: %s\n", s.Name, s.About)
		begin := time.Now()
		t := s.run(verbose)
		fmt.Printf("--- %-10s %6.1f s   %d passed, %d failed, %d skipped\n\n",
			s.Name, time.Since(begin).Seconds(), t.passed, len(t.failed), len(t.skipped))
		all.add(t)
	}
	unlisted := all.unlisted(allowed)
	root := os.Getuid() == 0
	for _, sk := range all.skipped {
		fmt.Printf("skipped: %s: %s\n", sk.test, sk.reason)
	}
	if root {
		for _, sk := range unlisted {
			fmt.Printf("FAILED: %s was skipped and is not in tests/skips.txt: %s\n", sk.test, sk.reason)
		}
	}
	for _, f := range all.failed {
		fmt.Println("FAILED:", f)
	}
	failed := len(all.failed)
	if root {
		failed += len(unlisted)
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", all.passed, failed, len(all.skipped))
	if failed > 0 || all.passed == 0 {
		return 1
	}
	return 0
}

// tally is what a suite's tests came to.
type tally struct {
	passed  int
	failed  []string
	skipped []skip
}

// skip is one skipped test; in tests/skips.txt the test is a prefix and the reason is for readers.
type skip struct{ test, reason string }

func (t *tally) add(o tally) {
	t.passed += o.passed
	t.failed = append(t.failed, o.failed...)
	t.skipped = append(t.skipped, o.skipped...)
}

func (t *tally) unlisted(allowed []skip) (out []skip) {
	for _, s := range t.skipped {
		if !slices.ContainsFunc(allowed, func(a skip) bool { return s.test == a.test || strings.HasPrefix(s.test, a.test+"/") }) {
			out = append(out, s)
		}
	}
	return out
}

func (s suite) run(verbose bool) tally {
	args := append([]string{"test", "-json", "-count=1", "-timeout", s.Timeout.String()}, s.packages()...)
	cmd := exec.Command("go", append(args, s.Args...)...) // behind the packages, since a test's own flags may be among them
	cmd.Env = append(os.Environ(), s.Env...)
	var stderr bytes.Buffer
	cmd.Stderr = io.MultiWriter(os.Stderr, &stderr)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return tally{failed: []string{s.Name + ": " + err.Error()}}
	}
	signal.Ignore(os.Interrupt) // go test passes it on; its results still count
	defer signal.Reset(os.Interrupt)
	if err := cmd.Start(); err != nil {
		return tally{failed: []string{s.Name + ": " + err.Error()}}
	}
	t := read(out, verbose)
	if err := cmd.Wait(); err != nil && len(t.failed) == 0 {
		t.failed = append(t.failed, fmt.Sprintf("%s: go test: %v", s.Name, err))
	}
	return t
}

// event is one line of `go test -json`.
type event struct {
	Action, Package, Test, Output, ImportPath string
	Elapsed                                   float64
}

// read counts results and prints the output of what failed.
func read(r io.Reader, verbose bool) (t tally) {
	output := map[string][]string{}
	in := bufio.NewReaderSize(r, 1<<20)
	for {
		line, err := in.ReadBytes('\n')
		var e event
		if json.Unmarshal(line, &e) == nil {
			t.take(e, output, verbose)
		} else if len(bytes.TrimSpace(line)) > 0 {
			fmt.Print(string(line))
		}
		if err != nil {
			sort.Strings(t.failed)
			return t
		}
	}
}

func (t *tally) take(e event, output map[string][]string, verbose bool) {
	name := strings.TrimPrefix(e.Package, "github.com/penstock/penstock/")
	if e.Test != "" {
		name += "." + e.Test
	}
	switch e.Action {
	case "output", "build-output":
		key := e.Package + "." + e.Test
		if e.Action == "build-output" {
			fmt.Print(e.Output)
		}
		output[key] = append(output[key], e.Output)
	case "pass":
		if e.Test != "" {
			t.passed++
			if verbose {
				fmt.Printf("ok    %s (%.1f s)\n", name, e.Elapsed)
			}
		}
		delete(output, e.Package+"."+e.Test)
	case "skip":
		if e.Test != "" {
			t.skipped = append(t.skipped, skip{name, reason(output[e.Package+"."+e.Test])})
		}
	case "fail":
		t.failed = append(t.failed, name)
		fmt.Print(strings.Join(output[e.Package+"."+e.Test], ""))
	}
}

// reason is what a test gave to t.Skip.
func reason(lines []string) string {
	for _, l := range lines {
		l = strings.TrimSpace(l)
		if l == "" || strings.HasPrefix(l, "===") || strings.HasPrefix(l, "---") {
			continue
		}
		if _, after, ok := strings.Cut(l, ".go:"); ok {
			if _, text, ok := strings.Cut(after, ": "); ok {
				return text
			}
		}
		return l
	}
	return "no reason given"
}

// readSkips reads lines `TEST: REASON`; # starts a comment.
func readSkips(name string) (out []skip, err error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the list of allowed skips: %w", err)
	}
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		test, why, ok := strings.Cut(line, ": ")
		if !ok || strings.TrimSpace(why) == "" {
			return nil, fmt.Errorf("%s:%d: want `TEST: REASON`", name, i+1)
		}
		out = append(out, skip{test, why})
	}
	return out, nil
}
