// Command bed runs a Nomad cluster on this machine out of a nomad binary, to work with by hand, and removes it again. As root:
//
//	NOMAD_BIN=/usr/bin/nomad go run ./tests/nomad/bed up [-clients 3] [-acl] [-tls] [-plugins DIR -devices NAME -gpus N]
//	go run ./tests/nomad/bed down FOLDER
//
// up prints the folder and the environment in which nomad, penstock and the tests find the cluster.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/penstock/penstock/tests/nomad/testbed"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bed:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) > 0 && args[0] == "up":
		return up(ctx, args[1:])
	case len(args) == 2 && args[0] == "down":
		b, err := testbed.Open(args[1])
		if err != nil {
			return err
		}
		return b.Down()
	}
	return errors.New("say up, or down with the bed's folder")
}

func up(ctx context.Context, args []string) error {
	o := testbed.Options{Binary: os.Getenv("NOMAD_BIN")}
	flags := flag.NewFlagSet("bed up", flag.ExitOnError)
	flags.IntVar(&o.Clients, "clients", 3, "number of clients")
	flags.BoolVar(&o.ACL, "acl", false, "with ACLs")
	flags.BoolVar(&o.TLS, "tls", false, "with TLS between all")
	flags.StringVar(&o.Plugins, "plugins", "", "folder of external plugins")
	flags.StringVar(&o.Devices, "devices", "", "device plugin that shows the files of a folder as GPUs")
	flags.IntVar(&o.GPUs, "gpus", 0, "files for it on each client")
	_ = flags.Parse(args)
	if o.Binary == "" {
		return errors.New("NOMAD_BIN must name a nomad binary")
	}
	begin := time.Now()
	b, err := testbed.Up(ctx, o)
	if err != nil {
		return err
	}
	fmt.Printf("# %s, %d clients, after %.1f s\nexport NOMAD_BED=%s\nexport %s\n", b.Version, len(b.Clients), time.Since(begin).Seconds(), b.Dir,
		strings.Join(b.Environ(), "\nexport "))
	return nil
}
