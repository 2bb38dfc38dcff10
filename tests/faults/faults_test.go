// Package faults breaks parts of a real installation, one in each test, while streams whose content is known run through
// its gateways. Each test prints one row of a table: what became of the requests, for how long no replica was ready, and
// what was left behind. Nothing may be lost, altered or doubled, and nothing may be left.
//
//	go test ./tests/faults -v                 # the rows
//	go test ./tests/faults -count=1 -update   # RESULTS.md too
package faults

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/penstock/penstock/tests/installation"
)

var update = flag.Bool("update", false, "write RESULTS.md")

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	installation.RemoveBuild()
	if code == 0 && *update {
		if err := os.WriteFile("RESULTS.md", []byte(results.markdown()), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}
