package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"

	"github.com/penstock/penstock/jobspecs"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// version is set by the linker (make build); else the module's own version stands in.
var version string

// Version is this binary's version.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

func versionCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "print the version of this binary, and of the controller where one answers",
		Action: action(std, nothing, func(ctx context.Context, inv *invocation, _ struct{}) error {
			doc := map[string]any{"version": Version(), "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH, "controller": nil}
			client, done, err := inv.control()
			if err == nil {
				defer done()
				if v, err := client.Version(ctx, &apiv1.VersionRequest{}); err == nil {
					doc["controller"] = plain(v.ProtoReflect())
				}
			}
			if inv.json() {
				return inv.printJSON("version", doc)
			}
			fmt.Fprintf(inv.Out, "penstock %s (%s %s/%s)\n", Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			if c, ok := doc["controller"].(map[string]any); ok {
				fmt.Fprintf(inv.Out, "controller %s on %s, term %v\n", c["version"], c["hostname"], c["term"])
			}
			return nil
		}),
	}
}

func schemaCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "schema", Usage: "print the JSON Schema of the deployment file, for editors",
		Action: action(std, nothing, func(_ context.Context, inv *invocation, _ struct{}) error {
			if inv.json() {
				return inv.printJSON("schema", map[string]any{"json_schema": json.RawMessage(jobspecs.Schema())})
			}
			_, err := inv.Out.Write(jobspecs.Schema())
			return err
		}),
	}
}

func configCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "config", Usage: "look at the configuration",
		Subcommands: []*cli.Command{{
			Name: "view", Usage: "print every setting; with --origin, where its value comes from",
			Flags:  []cli.Flag{&cli.BoolFlag{Name: "origin", Usage: "name the source of each value"}},
			Action: action(std, func(c *cli.Context) (bool, error) { _, err := nothing(c); return c.Bool("origin"), err }, runConfigView),
		}},
	}
}

func runConfigView(_ context.Context, inv *invocation, origin bool) error {
	if inv.json() {
		list := []any{}
		for _, v := range inv.set.values {
			list = append(list, map[string]any{"key": v.Key, "value": v.Value, "origin": v.Origin})
		}
		return inv.printJSON("config", map[string]any{"settings": list, "files": configFiles(inv.IO)})
	}
	head := []string{"KEY", "VALUE"}
	if origin {
		head = append(head, "ORIGIN")
	}
	var rows [][]string
	for _, v := range inv.set.values {
		row := []string{v.Key, orDash(v.Value)}
		if origin {
			row = append(row, v.Origin)
		}
		rows = append(rows, row)
	}
	return inv.table(head, rows)
}
