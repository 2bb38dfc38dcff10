package cli

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// at is a time so long after noon.
func at(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(noon.Add(d)) }

func ptr[T any](v T) *T { return &v }

// fixedStatus has a replica in every state that people get to see.
func fixedStatus() *apiv1.StatusResponse {
	lines := []string{"one", "two", "three", "four", "five", "six", "CUDA error: out of memory"}
	load := func(running, waiting uint32) *apiv1.EngineLoad {
		return &apiv1.EngineLoad{Running: &running, Waiting: &waiting}
	}
	replica := func(r *apiv1.ReplicaStatus) *apiv1.ReplicaStatus {
		r.Role, _, _ = strings.Cut(r.Name, "/")
		if r.Launch == "" {
			r.Launch = "qwen-" + strings.ReplaceAll(r.Name, "/", "-") + "-abcd"
		}
		r.Revision = 3
		return r
	}
	return &apiv1.StatusResponse{
		Term: 2, At: at(0), Warnings: []string{"0.0.0.0:9000 is open to every user who can reach it: metrics (qwen-decode-0-abcd)"},
		Gateways: []*apiv1.GatewayStatus{{Name: "gw-1", Url: "https://login1:8443/v1", SeenAt: at(-3 * time.Second)}},
		Deployments: []*apiv1.DeploymentStatus{
			{
				Name: "qwen", Model: "Qwen/Qwen3-8B", Engine: "vllm", Cluster: "local", Revision: 3, State: "degraded", Reason: "2 of 9 replicas are ready",
				Roles: []*apiv1.RoleStatus{{Role: "prefill", Wanted: 2, Ready: 1, Draining: 1}, {Role: "decode", Wanted: 7, Ready: 1, Starting: 4, Unknown: 1, Scaled: true}},
				Replicas: []*apiv1.ReplicaStatus{
					replica(&apiv1.ReplicaStatus{
						Name: "prefill/0", State: "ready", Since: at(-50 * time.Hour), Nodes: []string{"gpu042", "gpu043"}, Job: "4182731", Epoch: 7, Address: "10.0.0.42:40123",
						EndsAt: at(3 * time.Hour), SeenAt: at(-time.Second), Load: load(3, 12), Kv: &apiv1.KVState{Usage: ptr(0.873)},
						Handover: &apiv1.Handover{
							LeaveBy: at(3*time.Hour - 70*time.Second), StartAt: at(150 * time.Minute), Drain: durationpb.New(time.Minute),
							Queue: durationpb.New(15 * time.Minute), StartUp: durationpb.New(4*time.Minute + 12*time.Second), StartUpSamples: 6, ReadyAt: at(170 * time.Minute),
						},
						Ports: []*apiv1.Port{{Address: "unix:/run/e1.sock", Purpose: "engine", Protection: "directory"}, {Address: "10.0.0.42:40123", Purpose: "requests", Protection: "mtls"}},
					}),
					replica(&apiv1.ReplicaStatus{Name: "prefill/1", State: "draining", Reason: "asked for by `penstock drain`", Since: at(-90 * time.Second), Nodes: []string{"gpu044"}, Load: load(1, 0)}),
					replica(&apiv1.ReplicaStatus{Name: "decode/0", State: "ready", Since: at(-5 * time.Minute), Nodes: []string{"gpu045"}, Load: &apiv1.EngineLoad{Running: ptr(uint32(8))}, LastLines: lines}),
					replica(&apiv1.ReplicaStatus{
						Name: "decode/1", State: "loading", Since: at(-40 * time.Second), Nodes: []string{"gpu046"}, Failures: 1, LastLines: lines, // it restarted: nothing to explain any more
						Loading: &apiv1.Progress{BytesDone: 3 << 30, BytesTotal: 16 << 30, BytesPerSecond: 310 << 20, Remaining: durationpb.New(43 * time.Second)},
					}),
					replica(&apiv1.ReplicaStatus{Name: "decode/2", State: "loading", Reason: "the engine does not listen yet", Since: at(-2 * time.Second), Nodes: []string{"gpu047"}, Loading: &apiv1.Progress{BytesDone: 512}}),
					replica(&apiv1.ReplicaStatus{
						Name: "decode/3", State: "joining", Reason: "the engine ended: exit 1; starts again in 8s", Since: at(-3 * time.Second), Nodes: []string{"gpu048"},
						Failures: 3, RetryAt: at(5 * time.Second), LastLines: lines,
					}),
					replica(&apiv1.ReplicaStatus{Name: "decode/4", State: "failed", Reason: "the engine ended: exit 1", Since: at(-time.Minute), Nodes: []string{"gpu049"}, LastLines: lines[5:]}),
					replica(&apiv1.ReplicaStatus{Name: "decode/5", State: "unknown", Reason: "its agent has not been heard of for 1m0s", Since: at(-time.Hour), SeenAt: at(-time.Minute), Nodes: []string{"gpu050"}}),
					replica(&apiv1.ReplicaStatus{Name: "decode/6", State: "pending", Reason: "queued: Priority", Since: at(-10 * time.Minute), Job: "4182740"}),
				},
			},
			{
				Name: "small", Model: "tiny", Engine: "sim", Cluster: "local", Revision: 1, State: "ready", Reason: "revision 2 was rolled back: exit 3", RolledBackFrom: 2,
				Roles:    []*apiv1.RoleStatus{{Role: "mixed", Wanted: 1, Ready: 1}},
				Replicas: []*apiv1.ReplicaStatus{replica(&apiv1.ReplicaStatus{Name: "mixed/0", State: "ready", Since: at(-time.Minute), Nodes: []string{"node-a"}, Load: load(0, 0), Kv: &apiv1.KVState{Usage: ptr(0.0)}})},
			},
			{
				Name: "night", Model: "tiny4", Engine: "sim", Cluster: "slurm", Revision: 1, State: "ready",
				Reason: "night-mixed-0-abcd ends at 12:05:00 and about 4m10s pass without it: the limit QOSMaxJobsPerUserLimit keeps its successor from starting beside it",
				Roles:  []*apiv1.RoleStatus{{Role: "mixed", Wanted: 2, Ready: 2, Starting: 2}},
				Replicas: []*apiv1.ReplicaStatus{
					replica(&apiv1.ReplicaStatus{
						Name: "mixed/0", Launch: "night-mixed-0-abcd", State: "ready", Since: at(-4 * time.Hour), Nodes: []string{"gpu060"}, EndsAt: at(5 * time.Minute),
						Handover: &apiv1.Handover{
							LeaveBy: at(230 * time.Second), StartAt: at(-15 * time.Minute), Drain: durationpb.New(time.Minute), Queue: durationpb.New(9 * time.Minute), QueueSamples: 12,
							StartUp: durationpb.New(3 * time.Minute), StartUpSamples: 4, Successor: "night-mixed-0-efgh", SuccessorState: "pending",
							SuccessorReason: "job 4182760 is pending (QOSMaxJobsPerUserLimit)", ReadyAt: at(8 * time.Minute), Gap: durationpb.New(250 * time.Second),
							GapReason: "the limit QOSMaxJobsPerUserLimit keeps its successor from starting beside it",
						},
					}),
					replica(&apiv1.ReplicaStatus{Name: "mixed/0", Launch: "night-mixed-0-efgh", Replaces: "night-mixed-0-abcd", State: "pending", Reason: "job 4182760 is pending (QOSMaxJobsPerUserLimit)", Since: at(-15 * time.Minute)}),
					replica(&apiv1.ReplicaStatus{
						Name: "mixed/1", Launch: "night-mixed-1-abcd", State: "ready", Since: at(-4 * time.Hour), Nodes: []string{"gpu061"}, EndsAt: at(9 * time.Minute),
						Handover: &apiv1.Handover{
							LeaveBy: at(8 * time.Minute), StartAt: at(-9 * time.Minute), Drain: durationpb.New(time.Minute), Queue: durationpb.New(9 * time.Minute), QueueSamples: 12,
							StartUp: durationpb.New(3 * time.Minute), StartUpSamples: 4, Successor: "night-mixed-1-efgh", SuccessorState: "loading", ReadyAt: at(100 * time.Second),
						},
					}),
					replica(&apiv1.ReplicaStatus{Name: "mixed/1", Launch: "night-mixed-1-efgh", Replaces: "night-mixed-1-abcd", State: "loading", Since: at(-80 * time.Second), Nodes: []string{"gpu062"}}),
				},
			},
			{Name: "idle", Model: "tiny2", Engine: "sim", Cluster: "local", Revision: 1, State: "ready", Reason: "scaled to zero", Roles: []*apiv1.RoleStatus{{Role: "mixed", Scaled: true}}},
			{Name: "gone", Model: "tiny3", Engine: "llamacpp", Cluster: "local", Revision: 9, State: "stopped", Roles: []*apiv1.RoleStatus{{Role: "mixed"}}},
		},
	}
}

func fixedNodes() *apiv1.NodesResponse {
	return &apiv1.NodesResponse{
		Warnings: []string{"cluster slurm: cluster did not answer"},
		Nodes: []*apiv1.NodeStatus{
			{
				Name: "gpu042", Cluster: "local", State: "up", GpusDeclared: 2, GpusUsed: 2, Cpus: 128, Memory: 1 << 40, GpuSource: "nvml",
				Replicas: []string{"qwen/prefill/0", "qwen/decode/0", "qwen/decode/1"},
				Gpus: []*apiv1.GPU{
					{Uuid: "GPU-5f1a", Name: "NVIDIA H100 80GB HBM3", MemoryTotal: ptr(uint64(80 << 30)), MemoryUsed: ptr(uint64(71 << 30)), Utilization: ptr(0.97), TemperatureC: ptr(64.0), PowerW: ptr(688.4), EccUncorrected: ptr(uint64(0))},
					{Uuid: "GPU-77c0", Name: "NVIDIA H100 80GB HBM3", MemoryTotal: ptr(uint64(80 << 30)), Xids: []uint32{79, 48}},
				},
			},
			{
				Name: "gpu070", Cluster: "slurm", State: "up", GpusDeclared: 8, Cpus: 128, Memory: 1 << 40, GpuSource: "declared", ExcludedUntil: at(40 * time.Minute),
				ExcludedReason: "2 launches have ended there by its fault, the last, qwen-decode-1-abcd, at 11:40:00: node failed",
			},
			{Name: "node-b", Cluster: "local", State: "down", GpusDeclared: 1, Cpus: 2, Memory: 25232932864, GpuSource: "declared", Gpus: []*apiv1.GPU{{Uuid: "node-b-gpu0"}}},
		},
	}
}

func fixedPlan() *apiv1.PlanResponse {
	return &apiv1.PlanResponse{
		Deployment: "qwen", Revision: 4, Changed: true, Warnings: []string{"f.yaml:9: kv.disk: this release has no disk tier yet: it has no effect"},
		Actions: []*apiv1.Action{
			{Verb: "start", Deployment: "qwen", Role: "decode", Replica: 2, Nodes: []string{"gpu042", "gpu043"}, Gpus: 8, Reason: "decode has 2 of 3 wanted replicas"},
			{Verb: "start", Deployment: "qwen", Role: "prefill", Nodes: []string{"gpu044"}, Gpus: 1, Reason: "revision 4 replaces revision 3"},
			{Verb: "drain", Deployment: "qwen", Role: "prefill", Launch: "l-1", Reason: "it runs revision 3"},
			{Verb: "stop", Deployment: "qwen", Role: "decode", Replica: 1, Launch: "l-2", Reason: "its drain is over"},
			{Verb: "count", Deployment: "qwen", Role: "mixed", Reason: "5 wanted"},
			{Verb: "rollback", Deployment: "qwen", Reason: "revision 4 failed 3 times"},
			{Verb: "wait", Deployment: "qwen", Role: "decode", Reason: "no room for 1 replica of decode"},
			{Verb: "wait", Deployment: "qwen", Role: "decode", Replica: 0, Launch: "l-3", Reason: "queued: Priority"},
			{Verb: "found", Deployment: "qwen", Role: "decode", Replica: 0, Launch: "l-3", Reason: "job 7 is its job"},
		},
	}
}

func fixedWhy() *apiv1.WhyResponse {
	return &apiv1.WhyResponse{Record: &apiv1.RequestRecord{
		Id: "req-4f8c44dccdad788e2e99", Path: "/v1/chat/completions", Model: "tiny", KeyId: "ns2waxt2", Outcome: "continued", Status: 200,
		Ttft: durationpb.New(35 * time.Millisecond), Total: durationpb.New(1073 * time.Millisecond), PromptTokens: 261, CompletionTokens: 96,
		Attempts: []*apiv1.Attempt{
			{
				Replica: "demo/mixed/1", Reason: "least loaded of 3: 1 open here", PredictedMs: 30.4, PartsMs: map[string]float64{"decode": 2, "queue": 14.2, "prefill": 14.2, "kv": 0, "end": 0},
				Tokens: 11, End: "connection_lost", RunnersUp: []*apiv1.RunnerUp{{Replica: "demo/mixed/0", PredictedMs: 31.5}},
			},
			{Replica: "demo/mixed/2", Reason: "drawn from 2 of 2 that are equally loaded", Tokens: 86},
		},
	}}
}

func fixedEvents() []*apiv1.Event {
	return []*apiv1.Event{
		{At: at(0), Kind: "term", Message: "controller on login1, pid 10286, holds term 1"},
		{At: at(time.Second), Kind: "applied", Deployment: "qwen", Message: "revision 1 from qwen.yaml is current"},
		{At: at(2 * time.Second), Kind: "engine-ended", Deployment: "qwen", Replica: "decode/0", Launch: "l-1", Message: "exit 1: \x1b[31mCUDA\x1b[0m error"},
	}
}

func fixedKeys() *apiv1.ListKeysResponse {
	return &apiv1.ListKeysResponse{Keys: []*apiv1.Key{
		{Id: "bvpan6fm", Name: "me", Tenant: "bvpan6fm"},
		{Id: "2saf5lty", Name: "course 7", Tenant: "uni", RequestsPerMinute: 100, TokensPerMinute: 200000, Concurrency: 4, Models: []string{"qwen*", "tiny"}, ExpiresAt: at(80 * time.Hour), LastUsedAt: at(-4 * time.Minute)},
		{Id: "dux72w4k", Name: "old", Tenant: "dux72w4k", ExpiresAt: at(-time.Hour)},
	}}
}

// TestGolden shows what people see: the commands that print tables and reports, plain as in a pipe, coloured on a wide
// terminal, and plain on one of 80 columns.
func TestGolden(t *testing.T) {
	t.Parallel()
	f := &fakeControl{
		plan:  func(*apiv1.PlanRequest) (*apiv1.PlanResponse, error) { return fixedPlan(), nil },
		nodes: fixedNodes(), why: fixedWhy(), events: fixedEvents(), keys: fixedKeys(),
		endpoint: &apiv1.EndpointResponse{Url: "https://login1:8443/v1", CaFile: "/home/me/.local/state/penstock/ca/ca.pem", Models: []string{"tiny", "Qwen/Qwen3-8B"}},
		version:  &apiv1.VersionResponse{Version: "v1.2.3", Term: 2, Hostname: "login1"},
	}
	f.status = answerWith(fixedStatus())
	tt := newTerminal(t, f)
	tt.write(t, "f.yaml", demoFile)
	looks := map[string]func(*IO){
		"pipe":   func(*IO) {},
		"colour": func(std *IO) { std.OutTTY, std.ErrTTY, std.Width = true, true, 200 },
		"80":     func(std *IO) { std.OutTTY, std.ErrTTY, std.Width = true, true, 80 },
	}
	for name, args := range map[string]string{
		"status": "status", "status-wide": "status --wide", "nodes": "nodes", "nodes-gpus": "nodes --gpus", "plan": "plan f.yaml", "why": "why",
		"events": "events", "keys": "key list", "endpoint": "endpoint",
		// The contract with programs: a change here that is not an addition needs a new version of its schema.
		"status-json": "status --json", "nodes-json": "nodes --json", "plan-json": "plan f.yaml --json", "why-json": "why --json",
		"events-json": "events --json", "keys-json": "key list --json", "endpoint-json": "endpoint --json", "version-json": "version --json",
	} {
		for look, set := range looks {
			if strings.HasSuffix(name, "-json") && look != "pipe" {
				continue
			}
			if look == "colour" && !strings.HasPrefix(name, "status") && name != "nodes" {
				continue // nothing else has colours
			}
			one := *tt
			set(&one.IO)
			line := strings.Fields(args)
			if look == "80" {
				line = append(line, "--no-color")
			}
			_, out, talk := one.run(line...)
			if talk != "" {
				out += "--- stderr\n" + talk
			}
			if strings.HasSuffix(name, "-json") {
				golden(t, name, hideBuild(out))
				continue
			}
			golden(t, name+"-"+look, out)
			if look != "colour" && strings.Contains(out, "\x1b") {
				t.Errorf("%s, %s: colours", name, look)
			}
		}
	}
}

// hideBuild takes out of a document what depends on where and how the test was built.
func hideBuild(text string) string {
	return regexp.MustCompile(`"(version|go|os|arch)": "[^"]*"`).ReplaceAllString(text, `"$1": "…"`)
}
