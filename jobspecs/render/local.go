package render

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/jobspecs/engine"
)

// Local is a bash script with what the local cluster runs for a deployment: for each role and rank the agent's command,
// and the engine's command that the agent runs, with its environment and files. Without arguments the script lists them;
// `engine ROLE RANK` runs one engine by hand, as its agent would. It fails where the engine can't do what is asked.
func Local(d jobspecs.Deployment) (string, error) {
	if d.Cluster != jobspecs.LocalCluster {
		return "", fmt.Errorf("render for the local cluster: deployment %s runs on cluster %s", d.Name, d.Cluster)
	}
	s := script{d: d}
	for _, role := range jobspecs.RoleKinds {
		r, ok := d.Roles[role]
		if !ok {
			continue
		}
		s.declare(variables(d, role))
		for rank := range r.Nodes {
			if err := s.rank(role, rank); err != nil {
				return "", fmt.Errorf("render %s, role %s, rank %d: %w", d.Name, role, rank, err)
			}
		}
	}
	return s.String(), nil
}

const (
	penstock     = "@PENSTOCK@"
	runDir       = "@RUN@"
	joinFile     = "@JOIN@"
	headHost     = "@HEAD_HOST@"
	transferHost = "@TRANSFER_HOST@"
	headPort     = 61001
	transferPort = 61002
	enginePort   = 61003
)

// variables are the names that this role's launch lines hold stand-ins for.
func variables(d jobspecs.Deployment, role jobspecs.RoleKind) []variable {
	vars := []variable{
		{"PENSTOCK", penstock, "penstock", "the program"},
		{"JOIN", joinFile, "", "the 0600 file that the controller writes for each launch"},
		folder,
	}
	number := func(name string, n int) variable {
		return variable{name, strconv.Itoa(n), strconv.Itoa(n), "drawn at the start"}
	}
	if d.Roles[role].Nodes > 1 {
		vars = append(vars, variable{"HEAD_HOST", headHost, "127.0.0.1", "where the other ranks meet rank 0"}, number("HEAD_PORT", headPort))
	}
	if role != jobspecs.Mixed {
		vars = append(vars, variable{"TRANSFER_HOST", transferHost, "127.0.0.1", "where other engines fetch KV from"}, number("TRANSFER_PORT", transferPort))
	}
	if !engine.For(d.Engine.Kind).Traits().UnixSocket {
		vars = append(vars, number("ENGINE_PORT", enginePort))
	}
	return vars
}

var folder = variable{"RUN", runDir, "$(mktemp -d)", "the run's own folder: sockets, files"}

// script collects the functions of a script and the names under which they are called.
type script struct {
	d     jobspecs.Deployment
	vars  []variable // of the role at hand
	head  []string   // assignments of all variables, once each
	funcs strings.Builder
	calls []string
}

// start is what the agent of a rank would fill in. GPUs are left to the environment: placement chooses them later.
func (s *script) start(role jobspecs.RoleKind, rank int) engine.Start {
	r := s.d.Roles[role]
	st := engine.Start{
		Deployment: s.d, Role: role, Rank: rank, Nodes: r.Nodes, Dir: runDir, Self: penstock,
		EventsEndpoint: "ipc://" + runDir + "/events.sock", EventsReplay: "ipc://" + runDir + "/replay.sock",
	}
	traits := engine.For(s.d.Engine.Kind).Traits()
	if traits.UnixSocket {
		st.Socket = runDir + "/engine.sock"
	} else {
		st.Host, st.Port = "127.0.0.1", enginePort
	}
	if traits.Events != engine.ZMQEvents {
		st.EventsEndpoint, st.EventsReplay = "", ""
	}
	if r.Nodes > 1 {
		st.HeadHost, st.HeadPort = headHost, headPort
	}
	if role != jobspecs.Mixed {
		st.TransferHost, st.TransferPort = transferHost, transferPort
	}
	return st
}

func (s *script) rank(role jobspecs.RoleKind, rank int) error {
	c, err := engine.For(s.d.Engine.Kind).Command(s.start(role, rank))
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%s_%d", role, rank)
	fmt.Fprintf(&s.funcs, "\nagent_%s() {\n  exec %s\n}\n", name, command(Agent(penstock, joinFile, rank, s.d.Roles[role].Nodes), "    ", s.vars))
	s.call("agent", role, rank)
	if len(c.Argv) == 0 {
		return nil
	}
	fmt.Fprintf(&s.funcs, "\nengine_%s() {\n  %s\n", name, folder.assign())
	s.files(c)
	s.environment(c)
	s.setup(c.Setup)
	fmt.Fprintf(&s.funcs, "  exec %s\n}\n", command(c.Argv, "    ", s.vars))
	s.call("engine", role, rank)
	return nil
}

// declare sets the variables of the functions that follow. The folder is made later, once an engine is started.
func (s *script) declare(vars []variable) {
	s.vars = vars
	for _, v := range vars {
		if line := v.assign(); v != folder && !slices.Contains(s.head, line) {
			s.head = append(s.head, line)
		}
	}
}

func (s *script) call(what string, role jobspecs.RoleKind, rank int) {
	s.calls = append(s.calls, fmt.Sprintf("  %q) %s_%s_%d ;;\n", fmt.Sprintf("%s %s %d", what, role, rank), what, role, rank))
}

func (s *script) files(c engine.Command) {
	for _, name := range slices.Sorted(maps.Keys(c.Files)) {
		fmt.Fprintf(&s.funcs, "  cat >%s <<'END_OF_FILE'\n%sEND_OF_FILE\n", expand(runDir+"/"+name, s.vars), c.Files[name])
	}
}

func (s *script) environment(c engine.Command) {
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		fmt.Fprintf(&s.funcs, "  export %s=%s\n", name, expand(c.Env[name], s.vars))
	}
}

// setup copies the user's lines as they are, and keeps linters off them.
func (s *script) setup(lines []string) {
	if len(lines) == 0 {
		return
	}
	s.funcs.WriteString("  # shellcheck disable=all # the deployment's own lines\n  {\n")
	for _, line := range lines {
		s.funcs.WriteString(strings.TrimRight(line, "\n") + "\n")
	}
	s.funcs.WriteString("  }\n")
}

// String puts the script together.
func (s *script) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "#!/usr/bin/env bash\n# Deployment %s for the local cluster, revision content %s.\n#\n", s.d.Name, jobspecs.ShortHash(jobspecs.Hash(s.d)))
	b.WriteString("# penstock serve starts the agents, and each agent starts its engine, restarts it, and ends it with all it started.\n" +
		"# \"engine ROLE RANK\" runs one engine by hand and without all that.\n#\n")
	cards := false
	for _, role := range jobspecs.RoleKinds {
		if r, ok := s.d.Roles[role]; ok {
			fmt.Fprintf(&b, "# %s: %s, %s each, %s on each node\n", role, count(r.Replicas, "replica"), count(r.Nodes, "node"), count(r.GPUs.Count, "GPU"))
			cards = cards || r.GPUs.Count > 0
		}
	}
	if cards {
		b.WriteString("# Which cards, placement decides: the agent sets CUDA_VISIBLE_DEVICES.\n")
	}
	b.WriteString("set -euo pipefail\numask 077\n\n")
	b.WriteString(strings.Join(s.head, "\n") + "\n" + s.funcs.String())
	b.WriteString("\ncase \"$*\" in\n" + strings.Join(s.calls, "") + "  *)\n    echo \"usage: $0 agent|engine ROLE RANK\" >&2\n")
	b.WriteString("    exit 64\n    ;;\nesac\n")
	return b.String()
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
