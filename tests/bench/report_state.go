package main

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// bigState is what a busy agent with 8 GPUs says of itself; n makes it another than the one before.
func bigState(id *apiv1.Identity, n int) *apiv1.RunState {
	at := timestamppb.New(time.Now())
	s := &apiv1.RunState{
		Identity: id,
		Health:   &apiv1.Health{Phase: apiv1.Phase_PHASE_STARTED, EngineStarts: 1, Since: at},
		Load: &apiv1.EngineLoad{
			Running: new(uint32(20 + n%10)), Waiting: new(uint32(n % 3)), PromptTokensTotal: new(float64(1000 * n)),
			GenerationTokensTotal: new(float64(500 * n)), OpenRequests: uint32(20 + n%13), At: at,
		},
		Kv:    &apiv1.KVState{Usage: new(0.3 + float64(n%40)/100), CapacityTokens: new(uint64(1 << 20)), BlockTokens: new(uint32(16)), At: at},
		Gpus:  &apiv1.GPUs{Source: "nvml", At: at},
		Ports: &apiv1.Ports{},
	}
	for i := range 8 {
		s.Gpus.Gpus = append(s.Gpus.Gpus, &apiv1.GPU{
			Uuid: fmt.Sprintf("GPU-%08d-0000-0000-0000-00000000%04d", i, len(id.GetLaunch())), Name: "NVIDIA H100 80GB HBM3", Index: uint32(i),
			MemoryTotal: new(uint64(85520809984)), MemoryUsed: new(uint64(70_000_000_000 + n*1000)), Utilization: new(float64(n%100) / 100),
			TemperatureC: new(40 + float64(n%30)), PowerW: new(300 + float64(n%300)), PowerLimitW: new(700.0), SmClockMhz: new(uint32(1980)),
			MemoryClockMhz: new(uint32(2619)), EccCorrected: new(uint64(0)), EccUncorrected: new(uint64(0)),
		})
	}
	return s
}

// news are the sections of a state that change from second to second.
func news(s *apiv1.RunState) *apiv1.RunState {
	return &apiv1.RunState{Load: s.Load, Kv: s.Kv, Gpus: s.Gpus}
}
