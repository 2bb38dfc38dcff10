package jobspecs

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// A deployment file is stored, shown and diffed, and its arguments stand in ps: a secret has no place in it.
var (
	secretName = regexp.MustCompile(`(?i)(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS)$`)
	secretFlag = regexp.MustCompile(`(?i)^--?([a-z0-9_-]+[-_])?(api[-_]?key|hf[-_]token|auth[-_]token|secret|password)(=|$)`)
	// secretLine finds NAME=VALUE in shell lines, but not NAME="$(cat file)" or NAME=$OTHER.
	secretLine = regexp.MustCompile("(?m)(?:^|[\\s;&])([A-Za-z_][A-Za-z0-9_]*)=([\"']?)([^\\s\"'$`;]+)")
)

const fromFile = `read it from a file (0600) in engine.setup: export %s="$(cat /path/to/file)"`

func (c *checker) secrets(d Deployment) {
	for _, name := range slices.Sorted(maps.Keys(d.Engine.Env)) {
		path := "engine.env." + name
		switch {
		case secretName.MatchString(name):
			c.addf(path, strings.ReplaceAll(fromFile, "%s", name), "looks like a secret, and this file is no place for one")
		case strings.HasPrefix(name, "PENSTOCK_"):
			c.addf(path, "leave it out", "names with PENSTOCK_ are Penstock's own")
		}
	}
	for i, line := range d.Engine.Setup {
		for _, m := range secretLine.FindAllStringSubmatch(line, -1) {
			if secretName.MatchString(m[1]) {
				path := place{path: "engine.setup"}.item(i).path
				c.addf(path, strings.ReplaceAll(fromFile, "%s", m[1]), "sets %s to what looks like a secret", m[1])
			}
		}
	}
	c.secretArgs("engine.command", d.Engine.Command)
	c.secretArgs("engine.args", d.Engine.Args)
	for kind, r := range d.Roles {
		c.secretArgs("roles."+string(kind)+".args", r.Args)
	}
}

func (c *checker) secretArgs(path string, args []string) {
	for i, arg := range args {
		if secretFlag.MatchString(arg) {
			flag, _, _ := strings.Cut(arg, "=")
			c.addf(place{path: path}.item(i).path, "leave it out: Penstock guards the engine's port itself, and a hub token is read from a file in engine.setup",
				"%s would show a secret to every user of the node", flag)
		}
	}
}
