package tests

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// metricSources are the files that make metrics, with the prefix of the names in them that are not whole.
var metricSources = map[string]string{
	"scheduler/gateway/metrics.go":   "penstock_gateway_",
	"scheduler/reconcile/metrics.go": "penstock_reconcile_",
	"scheduler/server/server.go":     "",
	"agent/metrics.go":               "",
}

var (
	named      = regexp.MustCompile(`(?:Name: |counter\(|histogram\()"([a-z_]+)"`)
	documented = regexp.MustCompile("(?m)^\\| `(penstock_[a-z_]+)`")
)

// TestMetricsAreDocumented: METRICS.md names every metric, and none that does not exist.
func TestMetricsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../METRICS.md")
	if err != nil {
		t.Fatal(err)
	}
	var table, made []string
	for _, m := range documented.FindAllStringSubmatch(string(text), -1) {
		table = append(table, m[1])
	}
	for file, prefix := range metricSources {
		src, err := os.ReadFile(filepath.Join("..", file))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range named.FindAllStringSubmatch(string(src), -1) {
			made = append(made, prefix+m[1])
		}
	}
	if len(made) < 20 {
		t.Fatalf("only %d metrics were found in the sources: %v", len(made), made)
	}
	for _, name := range made {
		if !slices.Contains(table, name) {
			t.Errorf("METRICS.md does not name %s", name)
		}
	}
	for _, name := range table {
		if !slices.Contains(made, name) {
			t.Errorf("METRICS.md names %s, which nobody makes", name)
		}
	}
}

// TestNoOtherFileMakesMetrics keeps the list above whole.
func TestNoOtherFileMakesMetrics(t *testing.T) {
	for _, pattern := range []string{"../agent/*.go", "../scheduler/*/*.go", "../cli/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			name := strings.TrimPrefix(file, "../")
			_, listed := metricSources[name]
			if !listed && !strings.HasSuffix(name, "_test.go") && strings.Contains(string(src), "prometheus.New") && !strings.Contains(string(src), "prometheus.NewRegistry") {
				t.Errorf("%s makes metrics and is not in metricSources", name)
			}
		}
	}
}
