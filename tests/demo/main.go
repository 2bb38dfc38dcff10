// Command demo shows the product on this machine, with the real program and the simulated engine, in under two minutes.
// It prints each command before it runs it. It ends with the line `demo: ok`, or with the step that failed and exit 1,
// and leaves nothing behind: no process, no listening port, no file outside its own temporary folder.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/penstock/penstock/tests/installation"
)

func main() {
	binary := flag.String("penstock", "bin/penstock", "the program to show")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if err := demo(ctx, *binary); err != nil {
		fmt.Fprintln(os.Stderr, "demo: failed:", err)
		os.Exit(1)
	}
	fmt.Println("demo: ok")
}

func demo(ctx context.Context, binary string) (err error) {
	binary, err = filepath.Abs(binary)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "penstock-demo-")
	if err != nil {
		return err
	}
	s := &stage{Installation: &installation.Installation{Dir: dir, Binary: binary}}
	defer func() {
		if _, cerr := s.Clear(); err == nil {
			err = cerr
		}
	}()
	for _, step := range steps {
		fmt.Printf("\n%s\n", heading(step.title))
		if err := step.run(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", step.title, err)
		}
	}
	return nil
}

var steps = []struct {
	title string
	run   func(context.Context, *stage) error
}{
	{"A controller with a gateway, for this user alone", startController},
	{"What would happen, and why", showPlan},
	{"Run it: replicas become ready", runDeployment},
	{"A streamed answer", firstAnswer},
	{"The same conversation goes on: its prefix is in the KV cache", secondAnswer},
	{"Three replicas", scaleUp},
	{"kill -9 one of them in the middle of six streams", killOne},
	{"Where things stand", showStatus},
	{"Why did the interrupted request go where it went?", showWhy},
	{"Stop, and leave nothing behind", stopAll},
}

// heading is bold on a terminal.
func heading(title string) string {
	info, err := os.Stdout.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 || os.Getenv("NO_COLOR") != "" {
		return "== " + title
	}
	return "\033[1m== " + title + "\033[0m"
}
