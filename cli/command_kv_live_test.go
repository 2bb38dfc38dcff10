package cli

import (
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

func number(n uint64) *uint64 { return &n }

// twoReplicas answers as two replicas would, of which the second cannot, in no order.
func twoReplicas(q *apiv1.KVRequest) []*apiv1.KVResponse {
	k := kvKey(1, 7)
	from := func(part *apiv1.KVResponse) *apiv1.KVResponse {
		part.Deployment, part.Replica, part.Launch = "chat", "mixed/0", "l-1"
		return part
	}
	lost := &apiv1.KVResponse{Deployment: "chat", Replica: "mixed/1", Launch: "l-2", Error: "it does not run yet"}
	switch q.Verb {
	case "stat":
		return []*apiv1.KVResponse{lost, from(&apiv1.KVResponse{Tiers: []*apiv1.KVTier{
			{Tier: "host", Blocks: number(12), Bytes: number(3 << 20), Budget: number(1 << 30), Hits: 40, Misses: 2, ReadBytes: 5 << 20},
			{Tier: "object", Corrupt: 1},
		}})}
	case "list":
		return []*apiv1.KVResponse{from(&apiv1.KVResponse{Blocks: []*apiv1.KVBlock{
			{Space: k.Space[:], Name: k.Name[:], Tier: "host", Size: 1 << 20, StoredAt: timestamppb.New(noon.Add(-90e9))},
			{Space: k.Space[:], Name: k.Name[:], Part: 1, Tier: "disk", Size: 1 << 20},
		}})}
	}
	return []*apiv1.KVResponse{
		lost, from(&apiv1.KVResponse{Moved: &apiv1.KVMoved{Blocks: 1, Total: 12}}),
		from(&apiv1.KVResponse{Moved: &apiv1.KVMoved{Blocks: 9, Bytes: 9 << 20, There: 3, Total: 12, Done: true}}),
	}
}

func TestKVLive(t *testing.T) {
	t.Parallel()
	var asked []*apiv1.KVRequest
	tt := newTerminal(t, &fakeControl{kv: func(q *apiv1.KVRequest) ([]*apiv1.KVResponse, error) {
		asked = append(asked, q)
		if q.Deployment == "none" {
			return nil, connect.NewError(connect.CodeNotFound, errNothing)
		}
		return twoReplicas(q), nil
	}})
	code, out, talk := tt.run("kv", "stat", "chat")
	golden(t, "kv-stat-pipe", out)
	if code != 0 || !strings.Contains(talk, "chat mixed/1: it does not run yet") {
		t.Errorf("stat: exit %d: %s", code, talk)
	}
	_, out, _ = tt.run("kv", "stat", "--json", "--deployment", "chat")
	golden(t, "kv-stat-json", out)
	_, out, _ = tt.run("kv", "ls", "chat", "--replica", "mixed/0")
	golden(t, "kv-ls-pipe", out)
	for _, verb := range []string{"flush", "warm"} {
		code, out, talk = tt.run("kv", verb, "chat", "--within", "5s")
		golden(t, "kv-"+verb+"-pipe", out)
		if code != 0 || !strings.Contains(talk, "mixed/1") {
			t.Errorf("%s: exit %d: %s", verb, code, talk)
		}
	}
	if q := asked[len(asked)-1]; q.Verb != "warm" || q.Within.AsDuration() != 5e9 || q.Deployment != "chat" {
		t.Errorf("the last request: %v", q)
	}
	if code, _, _ := tt.run("kv", "flush", "none"); code != ExitNotFound {
		t.Errorf("a deployment that is not there: exit %d", code)
	}
}

// TestKVNobody: where no replica could be asked, that is not taken for an empty answer.
func TestKVNobody(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answers []*apiv1.KVResponse
		code    int
	}{
		"none runs":    {nil, ExitNotFound},
		"none answers": {[]*apiv1.KVResponse{{Deployment: "chat", Replica: "mixed/0", Error: "it has no KV tiers of its own"}}, ExitError},
	} {
		tt := newTerminal(t, &fakeControl{kv: func(*apiv1.KVRequest) ([]*apiv1.KVResponse, error) { return c.answers, nil }})
		for _, verb := range []string{"stat", "flush", "warm"} {
			if code, _, talk := tt.run("kv", verb, "chat"); code != c.code {
				t.Errorf("%s: %s: exit %d: %s", name, verb, code, talk)
			}
		}
	}
}
