package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/penstock/penstock/jobspecs"
)

// orderArguments puts flags before arguments, as the library's parser needs them, and finds unknown commands and flags
// itself, so that each gets the nearest name: `run f.yaml --wait`, `--json status` and `status --json` all work, and `--`
// ends flags. Flags that are not there get the values of their variables. Where help is asked for, the error is a helpText.
func orderArguments(app *cli.App, args []string, getenv func(string) string) ([]string, error) {
	if len(args) == 0 {
		return []string{app.Name}, nil
	}
	if len(args) > 1 && args[1] == "help" {
		args = append(append([]string{args[0]}, args[2:]...), "--help")
	}
	path, rest, early := []string{args[0]}, args[1:], []string(nil)
	var cmd *cli.Command
	level := app.Commands
	for len(rest) > 0 {
		a := rest[0]
		if a == "--" || (cmd != nil && len(cmd.Subcommands) == 0) {
			break
		}
		if strings.HasPrefix(a, "-") && a != "-" {
			n, err := flagWidth(rest, globalFlags(), "penstock")
			if err != nil {
				return nil, err
			}
			early, rest = append(early, rest[:n]...), rest[n:]
			continue
		}
		next := find(level, a)
		if next == nil {
			return nil, unknown(strings.Join(append([]string{app.Name}, path[1:]...), " "), a, level)
		}
		path, rest, cmd, level = append(path, next.Name), rest[1:], next, next.Subcommands
	}
	if cmd == nil || len(cmd.Subcommands) > 0 {
		if asksForHelp(early) || asksForHelp(rest) {
			return nil, helpOf(app, cmd, path)
		}
		if slices.Contains(early, "--version") {
			return []string{args[0], "version"}, nil
		}
		return append(path, rest...), nil
	}
	name := strings.Join(append([]string{app.Name}, path[1:]...), " ")
	flags, words, err := split(rest, cmd, name)
	if err != nil {
		return nil, err
	}
	if asksForHelp(flags) || asksForHelp(early) {
		return nil, helpOf(app, cmd, path)
	}
	fromEnv, err := fromEnvironment(cmd, flags, getenv)
	if err != nil {
		return nil, err
	}
	out := append(append(append(path, early...), fromEnv...), flags...)
	if len(words) > 0 {
		out = append(append(out, "--"), words...)
	}
	return out, nil
}

func asksForHelp(flags []string) bool {
	return slices.Contains(flags, "--help") || slices.Contains(flags, "-h")
}

func split(rest []string, cmd *cli.Command, name string) (flags, words []string, err error) {
	for len(rest) > 0 {
		a := rest[0]
		switch {
		case a == "--":
			return flags, append(words, rest[1:]...), nil
		case strings.HasPrefix(a, "-") && a != "-":
			n, err := flagWidth(rest, cmd.Flags, name)
			if err != nil {
				return nil, nil, err
			}
			flags, rest = append(flags, rest[:n]...), rest[n:]
		default:
			words, rest = append(words, a), rest[1:]
		}
	}
	return flags, words, nil
}

// flagWidth says how many words the flag at rest[0] takes: 1, or 2 with its value.
func flagWidth(rest []string, flags []cli.Flag, where string) (int, error) {
	name, _, inline := strings.Cut(strings.TrimLeft(rest[0], "-"), "=")
	if name == "help" || name == "h" || name == "version" {
		return 1, nil
	}
	var known []string
	for _, f := range flags {
		for _, n := range f.Names() {
			if n == name {
				if inline || isBool(f) {
					return 1, nil
				}
				if len(rest) < 2 {
					return 0, usageError("%s: flag --%s needs a value", where, name)
				}
				return 2, nil
			}
			known = append(known, n)
		}
	}
	hint := where + " --help lists the flags"
	if near := jobspecs.Nearest(name, known); near != "" {
		hint = fmt.Sprintf("did you mean --%s?", near)
	}
	return 0, &exitError{code: ExitUsage, err: fmt.Errorf("%s: unknown flag --%s", where, name), hint: hint}
}

func isBool(f cli.Flag) bool {
	switch f := f.(type) {
	case *cli.BoolFlag:
		return true
	case *cli.GenericFlag:
		b, ok := f.Value.(interface{ IsBoolFlag() bool })
		return ok && b.IsBoolFlag()
	}
	return false
}

func find(level []*cli.Command, name string) *cli.Command {
	for _, c := range level {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

func unknown(where, name string, level []*cli.Command) error {
	var known []string
	for _, c := range level {
		if !c.Hidden {
			known = append(known, c.Names()...)
		}
	}
	hint := where + " --help lists the commands"
	if near := jobspecs.Nearest(name, known); near != "" {
		hint = fmt.Sprintf("did you mean %q?", where+" "+near)
	}
	return &exitError{code: ExitUsage, err: fmt.Errorf("%s: unknown command %q", where, name), hint: hint}
}

func unknownCommand(name string, app *cli.App, group *cli.Command) error {
	if group != nil {
		return unknown(app.Name+" "+group.Name, name, group.Subcommands)
	}
	return unknown(app.Name, name, app.Commands)
}
