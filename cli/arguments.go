package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// orderArguments puts flags before arguments, as the library's parser needs them, and finds unknown commands and flags
// itself, so that each gets the nearest name: `run f.yaml --wait`, `--json status` and `status --json` all work, and `--`
// ends flags.
func orderArguments(app *cli.App, args []string) ([]string, error) {
	if len(args) == 0 {
		return []string{app.Name}, nil
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
			name := app.Name
			if cmd != nil {
				name += " " + cmd.Name
			}
			return nil, unknown(name, a, level)
		}
		path, rest, cmd, level = append(path, next.Name), rest[1:], next, next.Subcommands
	}
	if cmd == nil || len(cmd.Subcommands) > 0 {
		if slices.Contains(early, "--help") || slices.Contains(early, "-h") {
			return append(path, "--help"), nil
		}
		if slices.Contains(early, "--version") {
			return []string{args[0], "version"}, nil
		}
		return append(path, rest...), nil
	}
	flags, words, err := split(rest, cmd)
	if err != nil {
		return nil, err
	}
	out := append(append(path, early...), flags...)
	if len(words) > 0 {
		out = append(append(out, "--"), words...)
	}
	return out, nil
}

func split(rest []string, cmd *cli.Command) (flags, words []string, err error) {
	for len(rest) > 0 {
		a := rest[0]
		switch {
		case a == "--":
			return flags, append(words, rest[1:]...), nil
		case strings.HasPrefix(a, "-") && a != "-":
			n, err := flagWidth(rest, cmd.Flags, "penstock "+cmd.Name)
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
	if near := nearest(name, known); near != "" {
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
	if near := nearest(name, known); near != "" {
		hint = fmt.Sprintf("did you mean %q?", where+" "+near)
	}
	return &exitError{code: ExitUsage, err: fmt.Errorf("%s: unknown command %q", where, name), hint: hint}
}

func unknownCommand(_, name string, app *cli.App, cmd *cli.Command) error {
	if cmd != nil && len(cmd.Subcommands) > 0 {
		return unknown("penstock "+cmd.Name, name, cmd.Subcommands)
	}
	return unknown("penstock", name, app.Commands)
}

// nearest finds the known name that a typing mistake most likely meant; empty if none is near.
func nearest(name string, known []string) string {
	best, bestD := "", 1+len(name)/3
	for _, k := range known {
		if d := distance(name, k); d <= bestD && (best == "" || d < bestD) {
			best, bestD = k, d
		}
	}
	return best
}

// distance is the optimal string alignment distance: insert, delete, replace, swap of neighbours.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
