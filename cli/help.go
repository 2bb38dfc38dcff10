package cli

// The help texts: examples first, since they are what people copy.

const appHelp = `penstock - {{.Usage}}

  penstock serve --detach                 start the controller and the gateway
  penstock run qwen.yaml                  start a deployment, wait until it is ready
  penstock key create me                  make an API key
  penstock endpoint                       how to reach it

Usage: penstock COMMAND [FLAGS] [ARGUMENTS]      flags may stand before or after arguments; -- ends flags

Commands:{{range .VisibleCommands}}
  {{printf "%-11s" .Name}} {{.Usage}}{{end}}

Global flags are on every command; each is also read from PENSTOCK_NAME, .penstock.yaml, the user's and the site's
file. ` + "`penstock config view --origin`" + ` shows where a value comes from.

Exit codes: 0 ok, 1 error, 2 accepted but not placed, 3 not found, 4 authentication needed, 5 timed out,
6 deployment failed or was rolled back, 64 usage, 130 interrupted. plan: 0 no change, 1 change, 255 error.
`

const commandHelp = `penstock {{.FullName}} - {{.Usage}}

Usage: penstock {{.FullName}}{{if .VisibleFlags}} [FLAGS]{{end}}{{if .ArgsUsage}} {{.ArgsUsage}}{{end}}
{{if .Description}}
{{.Description}}
{{end}}{{if .VisibleFlags}}
Flags:{{range .VisibleFlags}}
  {{.}}{{end}}
{{end}}`

const groupHelp = `penstock {{.FullName}} - {{.Usage}}

Commands:{{range .VisibleCommands}}
  {{printf "%-11s" .Name}} {{.Usage}}{{end}}
`
