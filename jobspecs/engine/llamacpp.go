package engine

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/jobspecs"
)

// llamacpp is llama.cpp's `llama-server`. Its flags were measured on 0.7.0.
type llamacpp struct{}

func (llamacpp) Kind() jobspecs.EngineKind { return jobspecs.LlamaCpp }

func (llamacpp) Traits() Traits {
	return Traits{
		UnixSocket:  true,
		HealthPath:  "/health",
		ModelsPath:  "/v1/models",
		MetricsPath: "/metrics",
		Metrics: MetricNames{
			Running:          "llamacpp:requests_processing",
			Waiting:          "llamacpp:requests_deferred",
			PromptTokens:     "llamacpp:prompt_tokens_total", // without those found in the cache
			GenerationTokens: "llamacpp:tokens_predicted_total",
			CacheHitTokens:   "llamacpp:prompt_tokens_cached_total",
		},
		TokenizePath:   "/tokenize",
		Events:         NoEvents,
		Disaggregation: SlotFiles,
		TokenIDs:       LlamaVerbose,
		Paths:          []string{"/v1/chat/completions", "/v1/completions"},
		// It stops generating at once, and hangs while a client holds a connection: close ours, wait little.
		DrainsItself: false,
		StopGrace:    10 * time.Second,
	}
}

// llamaSlots is how many requests run at the same time unless the arguments say otherwise.
const llamaSlots = 4

func (l llamacpp) Command(s Start) (Command, error) {
	if err := s.check(); err != nil {
		return Command{}, err
	}
	if s.Socket != "" && !strings.HasSuffix(s.Socket, ".sock") {
		return Command{}, fmt.Errorf("llama-server takes %s for a host name: its socket must end in .sock", s.Socket)
	}
	d := s.Deployment
	line := s.program("llama-server")
	if d.Model.Path != "" {
		line.add("-m", d.Model.Path)
	} else {
		line.add("-hf", d.Model.ID)
	}
	line.add("-a", d.Model.ServedName)
	line.listen(s, "--host")
	if s.Socket == "" && s.KeyFile != "" {
		line.add("--api-key-file", s.KeyFile)
	}
	l.defaults(&line, s)
	line.add("--slot-save-path", s.Dir+"/")
	line.add(s.userArgs()...)
	return s.finish(line, nil, Command{})
}

// defaults adds each option that the user's arguments don't set in any spelling.
func (l llamacpp) defaults(line *words, s Start) {
	args, d := s.userArgs(), s.Deployment
	unless := func(names string, words ...string) {
		if !overrides(args, strings.Fields(names)...) {
			line.add(words...)
		}
	}
	threads := strconv.Itoa(max(s.role().CPUs, 1))
	slots := valueOf(args, llamaSlots, "np", "parallel")
	// One pool for all slots, which are not emptied when idle: else saved slots are empty, and restored ones lost.
	unless("kvu kv-unified", "-kvu")
	unless("cache-idle-slots", "--no-cache-idle-slots")
	unless("np parallel", "-np", strconv.Itoa(llamaSlots))
	unless("c ctx-size kv-unified-per-slot", "-c", strconv.Itoa(d.Serving.MaxContext*slots))
	// More threads than cores make llama.cpp many times slower, and several replicas may share a node.
	unless("t threads", "-t", threads)
	unless("tb threads-batch", "-tb", threads)
	// Its own host cache takes 8 GiB unasked. The agent's tiers are in its place: they are shared, and outlive it.
	unless("cram cache-ram", "--cache-ram", "0")
	unless("metrics", "--metrics")
	unless("slots", "--slots")
	unless("ui webui", "--no-ui")
	if KVDoor(d) == SlotDoor { // also where the environment says otherwise
		unless("context-shift", "--no-context-shift")
	}
}

// llamaIdle are options that change nothing about what KV bytes mean.
var llamaIdle = []string{
	"np", "parallel", "c", "ctx-size", "kv-unified-per-slot", "t", "threads", "tb", "threads-batch", "cram", "cache-ram", "metrics", "slots",
	"ui", "webui", "kvu", "kv-unified", "cache-idle-slots",
}

func (llamacpp) kvIdentity(args []string) string {
	var kept []string
	for i := 0; i < len(args); i++ {
		if !overrides(args[i:i+1], llamaIdle...) {
			kept = append(kept, args[i])
			continue
		}
		if !strings.Contains(args[i], "=") && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
			i++ // its value
		}
	}
	return strings.Join(kept, " ")
}

func (llamacpp) owned() map[string]string {
	return map[string]string{
		"host": "", "port": "", "api-key-file": "", "slot-save-path": "", "a": "model.servedName", "alias": "model.servedName",
		"m": "model.path", "model": "model.path", "hf": "model.id", "hf-repo": "model.id",
	}
}

func (l llamacpp) check(d jobspecs.Deployment) (errs jobspecs.Errors) {
	for kind, r := range d.Roles {
		if r.Parallel.Data > 1 {
			errs = append(errs, problem(rolePath(kind, "parallel.data"), "use replicas instead", "llamacpp has no data parallel copies in one server"))
		}
	}
	errs = append(errs, l.shifts(d)...)
	if _, split := d.Roles[jobspecs.Prefill]; split && d.KV.Host == 0 {
		errs = append(errs, problem("kv.host", "say how much memory KV blocks may take on each node, such as 4GiB",
			"is missing: prefill and decode replicas of llamacpp hand KV over through it"))
	}
	return errs
}

// shifts refuses to move KV in a full slot: what is left there is no prefix's KV any more, though its tokens may look like it.
func (llamacpp) shifts(d jobspecs.Deployment) (errs jobspecs.Errors) {
	if KVDoor(d) != SlotDoor {
		return nil
	}
	look := func(path string, args []string) {
		for i, arg := range args {
			if strings.HasPrefix(arg, "-") && flagName(arg) == "context-shift" {
				errs = append(errs, problem(fmt.Sprintf("%s[%d]", path, i), "leave it out, or leave out kv", "%s moves KV to where it was not computed: such slots can't be stored", arg))
			}
		}
	}
	look("engine.args", d.Engine.Args)
	for role, r := range d.Roles {
		look(rolePath(role, "args"), r.Args)
	}
	return errs
}

// progress reads the dots that llama.cpp prints, one for each whole percent it notices, on one line that ends at 100 %.
func (llamacpp) progress(line string) (float64, bool) {
	dots := strings.Trim(line, " \r\n")
	if len(dots) < 10 || strings.Trim(dots, ".") != "" {
		return 0, false
	}
	return min(float64(len(dots))/100, 1), true
}
