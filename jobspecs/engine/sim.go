package engine

import (
	"maps"
	"strconv"
	"time"

	"github.com/penstock/penstock/jobspecs"
)

// RanksSecretEnv is the variable with which the ranks of a simulated engine know each other. The agent sets it.
const RanksSecretEnv = "PENSTOCK_RANKS_SECRET"

// sim is the built-in engine, `penstock engine sim`: vLLM's surface and names, no GPU.
type sim struct{}

func (sim) Kind() jobspecs.EngineKind { return jobspecs.Sim }

// Traits are vLLM's, as far as the simulation goes.
func (sim) Traits() Traits {
	t := vllm{}.Traits()
	t.Paths = []string{"/v1/chat/completions", "/v1/completions", "/v1/embeddings"}
	t.StopGrace = 10 * time.Second
	return t
}

func (m sim) Command(s Start) (Command, error) {
	if err := s.check(); err != nil {
		return Command{}, err
	}
	d, r := s.Deployment, s.role()
	line := s.program(s.Self, "engine", "sim")
	line.add("--model", s.weights(), "--served-model-name", d.Model.ServedName)
	for _, a := range d.Model.Adapters {
		line.add("--lora-modules", a.Name+"="+a.Path)
	}
	line.listen(s, "--uds")
	line.number("--block-size", d.KV.BlockTokens)
	if e, ok := s.events(); ok {
		e.Enable = true
		line.json("--kv-events-config", e)
	}
	if c := m.connector(s); c != nil {
		line.json("--kv-transfer-config", c)
	}
	if s.split() && s.TransferPort > 0 {
		line.add("--transfer-host", s.TransferHost, "--transfer-port", strconv.Itoa(s.TransferPort))
	}
	line.above("--tensor-parallel-size", r.Parallel.Tensor)
	if s.Nodes > 1 {
		line.add("--nnodes", strconv.Itoa(s.Nodes), "--node-rank", strconv.Itoa(s.Rank),
			"--master-addr", s.HeadHost, "--master-port", strconv.Itoa(s.HeadPort))
		if s.Rank > 0 {
			line.add("--headless")
		}
	}
	line.number("--max-model-len", d.Serving.MaxContext)
	line.add(s.userArgs()...)
	env, rest := map[string]string{"PYTHONHASHSEED": "0"}, Command{KeyEnv: s.keyEnv("VLLM_API_KEY")}
	if KVDoor(d) == RESPDoor {
		maps.Copy(env, s.lmcacheEnv())
		rest.Files = map[string]string{lmcacheFile: s.lmcacheConfig(1)}
	}
	return s.finish(line, env, rest)
}

// connector is as vLLM's: between prefill and decode, and to the tiers.
func (sim) connector(s Start) *connector {
	var used []connector
	if s.split() {
		used = append(used, connector{Name: "SimConnector", Role: "kv_both"})
	}
	if KVDoor(s.Deployment) == RESPDoor {
		used = append(used, connector{Name: "LMCacheConnectorV1", Role: "kv_both"})
	}
	return together(used)
}

func (sim) owned() map[string]string {
	return map[string]string{
		"uds": "", "host": "", "port": "", "nnodes": "", "node-rank": "", "master-addr": "", "master-port": "", "headless": "",
		"kv-events-config": "", "kv-transfer-config": "roles", "transfer-host": "", "transfer-port": "",
		"model": "model.id", "served-model-name": "model.servedName", "lora-modules": "model.adapters",
		"tensor-parallel-size": "roles.ROLE.parallel", "block-size": "kv.blockTokens", "max-model-len": "serving.maxContext",
	}
}

func (sim) check(jobspecs.Deployment) jobspecs.Errors { return nil }

func (sim) progress(line string) (float64, bool) { return counted(simLine, line) }
