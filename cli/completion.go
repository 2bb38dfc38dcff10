package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// The shells' scripts ask the program itself: `penstock completion words WORD...` prints what may stand next, so that
// commands, flags and the names of live deployments always fit this binary and this controller. Flags are offered to who
// has typed a dash; files where a command takes one.
var completionScripts = map[string]string{
	"bash": `_penstock() {
  local IFS=$'\n' cur="${COMP_WORDS[COMP_CWORD]}" words
  words=$("${COMP_WORDS[0]}" completion words -- "${COMP_WORDS[@]:1:COMP_CWORD-1}" 2>/dev/null)
  [[ $cur == -* ]] || words=$(printf '%s\n' "$words" | grep -v '^-')
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o default -F _penstock penstock
`,
	"zsh": `#compdef penstock
_penstock() {
  local -a words_found
  words_found=("${(@f)$($words[1] completion words -- "${(@)words[2,CURRENT-1]}" 2>/dev/null)}")
  [[ $PREFIX == -* ]] || words_found=("${(@)words_found:#-*}")
  compadd -a words_found || _files
}
compdef _penstock penstock
`,
	"fish": `complete -c penstock -f -a '(penstock completion words -- (commandline -opc)[2..-1] 2>/dev/null)'
complete -c penstock -n '__fish_seen_subcommand_from run plan render' -F
`,
}

func completionCommand(std IO) *cli.Command {
	return &cli.Command{
		Name: "completion", Usage: "print the completion script of a shell", ArgsUsage: "bash|zsh|fish",
		Description: "bash: source <(penstock completion bash)",
		Action: action(std, func(c *cli.Context) ([]string, error) { return c.Args().Slice(), nil },
			func(ctx context.Context, inv *invocation, args []string) error {
				if len(args) > 0 && args[0] == "words" {
					return printWords(inv, completeWords(ctx, inv, args[1:]))
				}
				if len(args) != 1 || completionScripts[args[0]] == "" {
					return usageError("penstock completion needs bash, zsh or fish")
				}
				if inv.json() {
					return inv.printJSON("completion", map[string]any{"shell": args[0], "script": completionScripts[args[0]]})
				}
				_, err := fmt.Fprint(inv.Out, completionScripts[args[0]])
				return err
			}),
	}
}

func printWords(inv *invocation, words []string) error {
	if inv.json() {
		return inv.printJSON("completion_words", map[string]any{"words": append([]string{}, words...)})
	}
	for _, w := range words {
		if _, err := fmt.Fprintln(inv.Out, w); err != nil {
			return err
		}
	}
	return nil
}

// completeWords lists what may stand after the given words.
func completeWords(ctx context.Context, inv *invocation, before []string) []string {
	level := commands(inv.IO)
	var cmd *cli.Command
	for _, w := range before {
		if next := find(level, w); next != nil && (cmd == nil || len(cmd.Subcommands) > 0) {
			cmd, level = next, next.Subcommands
		}
	}
	var out []string
	if cmd == nil || len(cmd.Subcommands) > 0 {
		for _, c := range level {
			if !c.Hidden {
				out = append(out, c.Name)
			}
		}
		return out
	}
	for _, f := range append(cmd.Flags, globalFlags()...) {
		out = append(out, "--"+f.Names()[0])
	}
	if strings.Contains(cmd.ArgsUsage, "DEPLOYMENT") {
		out = append(out, liveNames(ctx, inv, before, strings.Contains(cmd.ArgsUsage, "ROLE="))...)
	}
	return out
}

// liveNames asks the controller for deployments, or for the replicas (or roles, with counts to come) of the deployment that
// is the last word. No answer, no names: completion is never an error.
func liveNames(ctx context.Context, inv *invocation, before []string, roles bool) (out []string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	client, done, err := inv.control()
	if err != nil {
		return nil
	}
	defer done()
	st, err := client.Status(ctx, &apiv1.StatusRequest{})
	if err != nil {
		return nil
	}
	for _, d := range st.Deployments {
		out = append(out, d.Name)
		if d.Name == before[len(before)-1] {
			return namesIn(d, roles)
		}
	}
	return out
}

func namesIn(d *apiv1.DeploymentStatus, roles bool) (out []string) {
	if roles {
		for _, r := range d.Roles {
			out = append(out, r.Role+"=")
		}
		return out
	}
	for _, r := range d.Replicas {
		out = append(out, r.Name)
	}
	return out
}
