package main

import (
	"context"
	"fmt"
	"time"
)

const (
	bigAgents     = 1000
	controllerFor = 15 * time.Second
	readyGoal     = 60.0  // s
	controllerCPU = 1.0   // cores
	controllerMem = 256.0 // MiB
	lagGoal       = 1000  // ms: a report is there before the next one
)

// begun is one job that the simulated cluster has started, for the agents' process.
type begun struct {
	JoinFile string `json:"join_file"`
	Run      string `json:"run"`
	Job      string `json:"job"`
}

// told is what the controller's process says.
type told struct {
	Begun *begun  `json:"begun,omitempty"`
	Ready float64 `json:"ready,omitempty"` // s from the deployments' application until all replicas were ready
}

// order is what the agents' process is told: to begin an agent, or to tell what it has counted since the last time.
type order struct {
	Begin *begun `json:"begin,omitempty"`
	Tell  bool   `json:"tell,omitempty"`
}

// tally is what the agents' process has counted.
type tally struct {
	Connected int       // report streams that are open
	Reports   int       // acknowledged
	Lag       quantiles // ms until the acknowledgement
	Watched   int       // messages that the gateway got
	Error     string    // the first that an agent met
}

// benchController measures a controller with 1,000 agents.
func benchController(ctx context.Context, o *options, r *report) error {
	controller, err := startHelper(o, roleController, fmt.Sprint(bigAgents))
	if err != nil {
		return err
	}
	defer controller.end()
	defer controller.endWith(ctx)()
	agents, err := startHelper(o, roleAgents)
	if err != nil {
		return err
	}
	defer agents.end()
	defer agents.endWith(ctx)()
	ready, err := introduce(controller, agents)
	if err != nil {
		return err
	}
	time.Sleep(3 * time.Second)
	var crowd tally // of the start
	if err := agents.ask(order{Tell: true}, &crowd); err != nil {
		return err
	}
	return measureController(r, controller, agents, ready)
}

// introduce hands the jobs that begin to the agents, until all are ready.
func introduce(controller, agents *helper) (ready float64, err error) {
	for {
		var t told
		if err := controller.hear(&t); err != nil {
			return 0, err
		}
		if t.Ready > 0 {
			return t.Ready, nil
		}
		if err := agents.tell(order{Begin: t.Begun}); err != nil {
			return 0, err
		}
	}
}

func measureController(r *report, controller, agents *helper, ready float64) error {
	pids := map[string][]int{"controller": {controller.pid()}, "agents": {agents.pid()}}
	before, begin := usageOf(pids), time.Now()
	time.Sleep(controllerFor)
	after, took := usageOf(pids), time.Since(begin)
	memory, err := memoryOf(controller.pid())
	if err != nil {
		return err
	}
	var t tally
	if err := agents.ask(order{Tell: true}, &t); err != nil {
		return err
	}
	if t.Connected != bigAgents || t.Error != "" || t.Watched == 0 {
		return fmt.Errorf("%d of %d agents are connected, the gateway got %d messages: %s", t.Connected, bigAgents, t.Watched, t.Error)
	}
	r.figure("controller_cpu_1000_agents", after.cores(before, "controller", took), "cores", "goal", controllerCPU, less)
	r.figure("controller_memory_1000_agents", memory, "MiB", "goal", controllerMem, less)
	r.figure("controller_report_lag_p99_1000_agents", t.Lag.P99, "ms", "goal", lagGoal, less)
	r.figure("controller_ready_1000_agents", ready, "s", "goal", readyGoal, less)
	r.note("controller: %.0f reports/s acknowledged, p50 lag %.1f ms; all agents together used %.2f cores", float64(t.Reports)/took.Seconds(),
		t.Lag.P50, after.cores(before, "agents", took))
	return nil
}
