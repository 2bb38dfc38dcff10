package cli

import "github.com/urfave/cli/v2"

// kvCommand is what people do with KV blocks that lie outside of engines. Some of it goes through the controller to the agents
// of running replicas, some works on a folder or a bucket that no process has open.
func kvCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "kv", Usage: "look at the KV store, move its blocks, check and measure it",
		Subcommands: []*cli.Command{
			kvStatCommand(std), kvListCommand(std), kvGetCommand(std), kvVerifyCommand(std), kvCollectCommand(std),
			kvFlushCommand(std), kvWarmCommand(std), kvReplayCommand(std), kvBenchCommand(std),
		},
	}
}
