// Command penstock serves large language models on Slurm, Nomad, or this machine.
package main

import (
	"os"

	"github.com/penstock/penstock/cli"
)

func main() { os.Exit(cli.Main(os.Args, cli.System())) }
