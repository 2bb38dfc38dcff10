package engine

import (
	"encoding/json"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/jobspecs"
)

// words builds a launch line.
type words []string

func (w *words) add(more ...string) { *w = append(*w, more...) }

// number adds a flag with a number, unless it is zero.
func (w *words) number(flag string, n int) {
	if n != 0 {
		w.add(flag, strconv.Itoa(n))
	}
}

// above adds a flag with a number that is larger than the engine's own default of one.
func (w *words) above(flag string, n int) {
	if n > 1 {
		w.add(flag, strconv.Itoa(n))
	}
}

// json adds a flag with a value in JSON.
func (w *words) json(flag string, value any) {
	w.add(flag, toJSON(value))
}

func toJSON(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // structs of text, numbers and lists always marshal
	}
	return string(text)
}

func (s Start) role() jobspecs.Role { return s.Deployment.Roles[s.Role] }

// usesGPUs reports whether the engine looks at cards; the simulated one only pretends.
func (s Start) usesGPUs() bool {
	return s.role().GPUs.Count > 0 && s.Deployment.Engine.Kind != jobspecs.Sim
}

// split reports whether this engine does half of the work only.
func (s Start) split() bool { return s.Role == jobspecs.Prefill || s.Role == jobspecs.Decode }

// weights are what the engine loads: the local path where there is one.
func (s Start) weights() string { return weightsOf(s.Deployment.Model) }

func weightsOf(m jobspecs.Model) string {
	if m.Path != "" {
		return m.Path
	}
	return m.ID
}

// program is the engine's own, unless the deployment names another.
func (s Start) program(own ...string) words {
	if len(s.Deployment.Engine.Command) > 0 {
		own = s.Deployment.Engine.Command
	}
	return append(words(nil), own...)
}

// userArgs come last on a launch line: of two equal options engines take the last.
func (s Start) userArgs() []string {
	return append(append([]string(nil), s.Deployment.Engine.Args...), s.role().Args...)
}

// drainSeconds is the time for open requests in whole seconds, at least one.
func (s Start) drainSeconds() int {
	return int((s.Deployment.Serving.DrainTimeout.Std() + time.Second - 1) / time.Second)
}

// check holds what every engine needs to be started.
func (s Start) check() error {
	if _, ok := s.Deployment.Roles[s.Role]; !ok {
		return fmt.Errorf("deployment %s has no role %s", s.Deployment.Name, s.Role)
	}
	if s.Dir == "" {
		return fmt.Errorf("rank %d of deployment %s has no folder of its own", s.Rank, s.Deployment.Name)
	}
	if s.Rank < 0 || s.Rank >= max(s.Nodes, 1) {
		return fmt.Errorf("rank %d of %d nodes does not exist", s.Rank, s.Nodes)
	}
	if s.Nodes > 1 && (s.HeadHost == "" || s.HeadPort == 0) {
		return fmt.Errorf("rank %d of %d nodes: the address of rank 0 is not known", s.Rank, s.Nodes)
	}
	return s.missingDoor()
}

// listen adds where rank 0 answers HTTP: a unix socket where there is one.
func (w *words) listen(s Start, socketFlag string) {
	switch {
	case s.Rank > 0:
	case s.Socket != "" && socketFlag != "":
		w.add(socketFlag, s.Socket)
	default:
		w.address(s)
	}
}

func (w *words) address(s Start) {
	if s.Port > 0 {
		w.add("--host", s.Host, "--port", strconv.Itoa(s.Port))
	}
}

// keyEnv names the variable that takes the key where the engine listens on TCP.
func (s Start) keyEnv(name string) string {
	if s.KeyFile == "" || s.Socket != "" || s.Rank > 0 {
		return ""
	}
	return name
}

// finish puts the user's environment over the engine's, shows the GPUs, and wraps the line for the container. step is the
// srun line before it all, for engines whose processes Slurm starts; empty = the agent starts the process.
func (s Start) finish(line words, env map[string]string, rest Command, step ...string) (Command, error) {
	if env == nil {
		env = map[string]string{}
	}
	if s.Deployment.Model.Path != "" {
		env["HF_HUB_OFFLINE"] = "1"
	}
	if ids, ok := visible(s.GPUs); ok && s.usesGPUs() {
		env["CUDA_VISIBLE_DEVICES"] = ids
	}
	for name, value := range s.Deployment.Engine.Env {
		env[name] = value
	}
	rest.Argv, rest.Env, rest.Setup = line, env, s.Deployment.Engine.Setup
	return s.contain(rest, step)
}

// visible turns UUIDs into the value of CUDA_VISIBLE_DEVICES. Declared cards that no driver knows are not shown to it.
func visible(gpus []string) (string, bool) {
	for _, id := range gpus {
		if !strings.HasPrefix(id, "GPU-") && !strings.HasPrefix(id, "MIG-") {
			return "", false
		}
	}
	return strings.Join(gpus, ","), len(gpus) > 0
}

// hostPort writes an address that may be IPv6.
func hostPort(host string, port int) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + strconv.Itoa(port)
}

// flagName is an option without dashes and value, with dashes for underscores: --served_model_name=x -> served-model-name.
func flagName(arg string) string {
	name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	return strings.ReplaceAll(name, "_", "-")
}

// overrides reports whether the user's arguments hold one of the options, in any spelling.
func overrides(args []string, names ...string) bool {
	for _, arg := range args {
		if !strings.HasPrefix(arg, "-") {
			continue
		}
		for _, name := range names {
			if got := flagName(arg); got == name || got == "no-"+name {
				return true
			}
		}
	}
	return false
}

// valueOf is the number that the user's arguments give to an option; otherwise what is taken without it.
func valueOf(args []string, otherwise int, names ...string) int {
	for i, arg := range args {
		if !overrides(args[i:i+1], names...) {
			continue
		}
		_, text, joined := strings.Cut(arg, "=")
		if !joined && i+1 < len(args) {
			text = args[i+1]
		}
		if n, err := strconv.Atoi(text); err == nil && n > 0 && n <= 1<<20 {
			otherwise = n
		}
	}
	return otherwise
}

// older reports whether the deployment names a version below major.minor. Without a version the newest is assumed.
func older(d jobspecs.Deployment, major, minor int) bool {
	var a, b int
	if n, _ := fmt.Sscanf(strings.TrimPrefix(d.Engine.Version, "v"), "%d.%d", &a, &b); n < 2 {
		return false
	}
	return a < major || a == major && b < minor
}

// inDir is the path of one of Command.Files once the agent has written it.
func (s Start) inDir(name string) string { return path.Join(s.Dir, name) }

// events are the form in which vLLM, SGLang and the simulated engine take their event endpoints.
type events struct {
	Enable    bool   `json:"enable_kv_cache_events,omitempty"`
	Publisher string `json:"publisher"`
	Endpoint  string `json:"endpoint"`
	Replay    string `json:"replay_endpoint,omitempty"`
}

// events says where KV events go. With several data parallel ranks vLLM and SGLang give rank r the port plus r, and refuse
// to start on a socket that has no port: there are no events then, unless the endpoint is TCP.
func (s Start) events() (events, bool) {
	ported := strings.HasPrefix(s.EventsEndpoint, "tcp://")
	if s.EventsEndpoint == "" || s.Rank > 0 || s.role().Parallel.Data > 1 && !ported {
		return events{}, false
	}
	return events{Publisher: "zmq", Endpoint: s.EventsEndpoint, Replay: s.EventsReplay}, true
}
