package cli

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// helpText is what is printed where help is asked for. It is the error of a command line that asks for it.
type helpText string

func (helpText) Error() string { return "help was asked for" }

// helpOf is the help of a command, whose path is all words from the program's name on, or of the program. Examples stand
// first, since they are what people copy.
func helpOf(app *cli.App, c *cli.Command, path []string) helpText {
	if c == nil {
		return programHelp(app)
	}
	return commandHelp(c, strings.Join(append([]string{app.Name}, path[1:]...), " "))
}

func programHelp(app *cli.App) helpText {
	var b strings.Builder
	fmt.Fprintf(&b, "%s - %s\n", app.Name, app.Usage)
	b.WriteString(`
  penstock serve --detach                 start the controller and the gateway
  penstock run qwen.yaml                  start a deployment, wait until it is ready
  penstock key create me                  make an API key
  penstock endpoint                       how to reach it

Usage: penstock COMMAND [FLAGS] [ARGUMENTS]
Flags may stand before or after arguments; -- ends flags. penstock COMMAND --help lists them.

`)
	writeCommands(&b, app.Commands)
	b.WriteString("\nEach flag has a variable of its name: --dry-run has PENSTOCK_DRY_RUN. Global flags are on every command, and stand in\n" +
		".penstock.yaml, the user's and the site's file too. A flag wins over its variable, a variable over files:\n" +
		"`penstock config view --origin` shows where a value comes from.\n\n" +
		"Exit codes: 0 ok, 1 error, 2 accepted but not placed, 3 not found, 4 authentication needed, 5 timed out,\n" +
		"6 deployment failed or was rolled back, 64 usage, 130 interrupted. plan: 0 no change, 1 change, 255 error.\n")
	return helpText(b.String())
}

func writeCommands(b *strings.Builder, commands []*cli.Command) {
	b.WriteString("Commands:\n")
	for _, c := range commands {
		if !c.Hidden {
			fmt.Fprintf(b, "  %-11s %s\n", c.Name, c.Usage)
		}
	}
}

// commandHelp is the help of a command whose full name is name.
func commandHelp(c *cli.Command, name string) helpText {
	var b strings.Builder
	fmt.Fprintf(&b, "%s - %s\n\n", name, c.Usage)
	if len(c.Subcommands) > 0 {
		fmt.Fprintf(&b, "Usage: %s COMMAND [FLAGS] [ARGUMENTS]\n\n", name)
		writeCommands(&b, c.Subcommands)
		return helpText(b.String())
	}
	usage := "Usage: " + name + " [FLAGS]"
	if c.ArgsUsage != "" {
		usage += " " + c.ArgsUsage
	}
	b.WriteString(usage + "\n")
	if c.Description != "" {
		b.WriteString("\n" + c.Description + "\n")
	}
	own, global := flagLines(c.Flags)
	writeFlags(&b, "Flags", own)
	writeFlags(&b, "Global flags", global)
	return helpText(b.String())
}

// flagLine is a flag as help shows it, and what it does.
type flagLine struct{ flag, does string }

func flagLines(flags []cli.Flag) (own, global []flagLine) {
	for _, f := range flags {
		l := flagLine{flagName(f), flagUse(f)}
		if c, ok := f.(cli.CategorizableFlag); ok && c.GetCategory() == globalCategory {
			global = append(global, l)
		} else {
			own = append(own, l)
		}
	}
	return own, global
}

func writeFlags(b *strings.Builder, title string, lines []flagLine) {
	if len(lines) == 0 {
		return
	}
	width := 0
	for _, l := range lines {
		width = max(width, len(l.flag))
	}
	fmt.Fprintf(b, "\n%s:\n", title)
	for _, l := range lines {
		b.WriteString(strings.TrimRight(fmt.Sprintf("  %-*s  %s", width, l.flag, l.does), " ") + "\n")
	}
}

// flagName is "-f, --follow", "--timeout TIME" or "--models TEXT ...".
func flagName(f cli.Flag) string {
	names := f.Names()
	text := "--" + names[0]
	for _, alias := range names[1:] {
		text = "-" + alias + ", " + text
	}
	switch f.(type) {
	case *cli.BoolFlag:
		return text
	case *cli.DurationFlag:
		return text + " TIME"
	case *cli.StringFlag:
		return text + " TEXT"
	case *cli.StringSliceFlag:
		return text + " TEXT ..."
	}
	return text + " N"
}

// flagUse is what a flag does and, where it is worth saying, its default.
func flagUse(f cli.Flag) string {
	d, ok := f.(cli.DocGenerationFlag)
	if !ok {
		return ""
	}
	text := d.GetUsage()
	switch v := strings.Trim(d.GetDefaultText(), `"`); v {
	case "", "false", "0", "0s":
		return text
	default:
		return strings.TrimSpace(text + " (default: " + v + ")")
	}
}
