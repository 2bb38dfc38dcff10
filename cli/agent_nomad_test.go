package cli

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/agent"
	"github.com/penstock/penstock/scheduler/identity"
)

func TestAgentsPlaceOnNomad(t *testing.T) {
	t.Parallel()
	in := []string{
		"NOMAD_ALLOC_ID=b1406133-2056-db3a-7e49-b23523b86801", "NOMAD_ALLOC_INDEX=3", "NOMAD_JOB_ID=penstock-x", "NOMAD_NAMESPACE=llm", "NOMAD_ALLOC_DIR=/a",
		"NOMAD_PORT_data=20001", "NOMAD_IP_data=10.0.0.7", "NOMAD_PORT_ready=20002", "NOMAD_IP_ready=10.0.0.7", "PENSTOCK_NODE=n7",
		"NVIDIA_VISIBLE_DEVICES=GPU-1,GPU-2",
	}
	o, err := agentOptions{nodes: 4, join: "/s/join.json"}.fromNomad(env(in...))
	if err != nil || o.rank != 3 || o.node != "n7" || o.nomad.ready != "10.0.0.7:20002" {
		t.Errorf("%+v: %v", o, err)
	}
	own := []string{"CUDA_VISIBLE_DEVICES=7", "HOME=/h"}
	gang, err := o.nomad.apply(agent.Options{Join: identity.JoinFile{Launch: "x-mixed-0"}, Run: "drawn", Environ: own})
	if err != nil || gang.Run != "drawn" || gang.Job != "penstock-x@llm" || !slices.Equal(gang.Environ, []string{"HOME=/h", "CUDA_VISIBLE_DEVICES=GPU-1,GPU-2"}) {
		t.Errorf("gang: %+v, %v", gang, err)
	}
	counted, err := o.nomad.apply(agent.Options{Join: identity.JoinFile{Deployment: "x"}})
	if err != nil || counted.Run != "b1406133-2056-db3a-7e49-b23523b86801" || counted.Job != counted.Run ||
		counted.Join.Launch != "alloc-b14061332056db3a7e49b23523b86801" || counted.Join.EndpointFile != "/s/endpoint.json" ||
		counted.ListenPort != 20001 || counted.AdvertiseHost != "10.0.0.7" || counted.OutputDir != "/a/logs/penstock" {
		t.Errorf("counted: %+v, %v", counted, err)
	}
	if got := (&nomadOptions{killWait: 30 * time.Second}).grace(); got != 25*time.Second {
		t.Errorf("of 30s a drain gets %s", got)
	}
	for missing, says := range map[string]string{"NOMAD_ALLOC_ID": "no Nomad allocation", "NOMAD_PORT_ready": "NOMAD_PORT_ready", "NOMAD_ALLOC_INDEX": "NOMAD_ALLOC_INDEX"} {
		less := slices.DeleteFunc(slices.Clone(in), func(e string) bool { return strings.HasPrefix(e, missing+"=") })
		if _, err := (agentOptions{nodes: 4}).fromNomad(env(less...)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("without %s: %v", missing, err)
		}
	}
}
