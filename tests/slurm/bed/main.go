// Command bed builds a real Slurm cluster on this machine, to work with by hand, and removes it again. As root:
//
//	go run ./tests/slurm/bed up [-version 24.11] [-short 2m] [-accounting]
//	go run ./tests/slurm/bed shell [-user penstock-alice] [-on login] [COMMAND...]
//	go run ./tests/slurm/bed down [-all]
//	go run ./tests/slurm/bed record [-version 24.11] slurm/testdata/24.11    # slurmrestd's answers, for the decoders' tests
//
// Without -bed, shell and down take the newest bed that was made by hand.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"github.com/penstock/penstock/tests/slurm/testbed"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			os.Exit(exit.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "bed:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("say up, shell, down, list or record")
	}
	verbs := map[string]func(context.Context, *flag.FlagSet, []string) error{"up": up, "shell": shell, "down": down, "list": list, "record": record}
	verb, ok := verbs[args[0]]
	if !ok {
		return fmt.Errorf("%s is no command: say up, shell, down, list or record", args[0])
	}
	return verb(ctx, flag.NewFlagSet("bed "+args[0], flag.ExitOnError), args[1:])
}

func up(ctx context.Context, flags *flag.FlagSet, args []string) error {
	opts := testbed.Options{Keep: true}
	flags.StringVar(&opts.Version, "version", "", "Slurm release: 24.11 or 26.05 (default: this machine's own)")
	flags.DurationVar(&opts.ShortMax, "short", 2*time.Minute, "MaxTime of the partition short")
	flags.BoolVar(&opts.Accounting, "accounting", false, "with slurmdbd")
	_ = flags.Parse(args)
	begin := time.Now()
	b, err := testbed.Up(ctx, opts)
	if err != nil {
		return err
	}
	fmt.Printf("%s\nSlurm %s, %d nodes with %d GPUs each, after %.1f s\n", b.Dir, b.Release(), testbed.Nodes, testbed.GPUs, time.Since(begin).Seconds())
	return nil
}

func shell(ctx context.Context, flags *flag.FlagSet, args []string) error {
	dir := flags.String("bed", "", "folder of the bed")
	user := flags.String("user", testbed.Alice.Name, "who")
	on := flags.String("on", "login", "machine")
	_ = flags.Parse(args)
	b, err := open(ctx, *dir)
	if err != nil {
		return err
	}
	who, err := testbed.Person(*user)
	if err != nil {
		return err
	}
	for _, m := range b.All() {
		if m.Name == *on {
			return m.Shell(ctx, who, flags.Args()...).Run()
		}
	}
	return fmt.Errorf("the bed has no machine %s", *on)
}

func down(_ context.Context, flags *flag.FlagSet, args []string) error {
	dir := flags.String("bed", "", "folder of the bed")
	all := flags.Bool("all", false, "every bed, also those of tests that run")
	_ = flags.Parse(args)
	if *all {
		return testbed.Sweep(true)
	}
	if *dir == "" {
		var err error
		if *dir, err = testbed.Newest(); err != nil {
			return err
		}
	}
	return errors.Join(testbed.Remove(*dir), testbed.Sweep(false))
}

func list(_ context.Context, flags *flag.FlagSet, args []string) error {
	_ = flags.Parse(args)
	for _, dir := range testbed.List() {
		fmt.Println(dir)
	}
	return nil
}

func open(ctx context.Context, dir string) (*testbed.Bed, error) {
	if dir == "" {
		var err error
		if dir, err = testbed.Newest(); err != nil {
			return nil, err
		}
	}
	return testbed.Open(ctx, dir)
}
