package main

import (
	"context"
	"fmt"
	"time"
)

// cost measures how much one core of the gateway's process can do, against the reference proxy.
func (g *gatewayBench) cost(ctx context.Context, o *options) error {
	proxy, err := startHelper(o, roleProxy)
	if err != nil {
		return err
	}
	defer proxy.end()
	defer proxy.endWith(ctx)()
	var address string
	if err := proxy.ask(proxied{State: g.State(), Replicas: g.replicas}, &address); err != nil {
		return err
	}
	if o.wants("tokens") {
		if err := g.tokensPerCore(address, proxy.pid()); err != nil {
			return err
		}
	}
	return g.requestsPerCore(o, address, proxy.pid())
}

// tokensPerCore counts the CPU time of many streams at 20 tokens a second each, in the middle of their answers.
func (g *gatewayBench) tokensPerCore(address string, proxy int) error {
	l := load{Clients: 400, Stream: true, Tokens: 60, Ramp: 2.5, For: 3, Pace: pace{First: 100_000, Every: 50_000, Mute: true}}
	reference := l
	reference.Network, reference.Addresses = "tcp", []string{address}
	var ours, theirs []float64
	for range rounds {
		for _, way := range []struct {
			load load
			pid  int
			into *[]float64
		}{{g.through(l), g.gateway.Process.Pid, &ours}, {reference, proxy, &theirs}} {
			out, cores, err := g.watched(way.load, map[string][]int{"it": {way.pid}})
			if err != nil {
				return err
			}
			*way.into = append(*way.into, float64(out.Arrived)/out.Seconds/cores["it"])
		}
	}
	g.report.figure("gateway_tokens_per_core", median(ours), "1/s", "ReverseProxy", median(theirs), more)
	return nil
}

// requestsPerCore has as many clients as keep the machine busy ask one after the other.
func (g *gatewayBench) requestsPerCore(o *options, address string, proxy int) error {
	for _, stream := range []bool{true, false} {
		name := map[bool]string{true: "stream", false: "whole"}[stream]
		if !o.wants(name) {
			continue
		}
		l := load{Clients: 64, Stream: stream, Tokens: 32, Ramp: 0.5, For: 1.5}
		reference := l
		reference.Network, reference.Addresses = "tcp", []string{address}
		var ours, theirs, share []float64
		for range 2 * rounds {
			a, err := g.perCore(g.through(l), g.gateway.Process.Pid)
			if err != nil {
				return err
			}
			b, err := g.perCore(reference, proxy)
			if err != nil {
				return err
			}
			ours, theirs, share = append(ours, a.perCore), append(theirs, b.perCore), append(share, a.cores)
		}
		g.report.figure("gateway_requests_per_core_"+name, median(ours), "1/s", "ReverseProxy", median(theirs), more)
		g.report.note("answers of 32 tokens, %s: the gateway's process used %.2f cores", name, median(share))
	}
	return nil
}

// costOf is what a process did with its CPU time.
type costOf struct{ perCore, cores float64 }

// perCore makes a load and counts the CPU time of a process.
func (g *gatewayBench) perCore(l load, pid int) (costOf, error) {
	begin := time.Now()
	before, err := cpuOf(pid)
	if err != nil {
		return costOf{}, err
	}
	out, err := g.do(l)
	if err != nil {
		return costOf{}, err
	}
	after, err := cpuOf(pid)
	if err != nil {
		return costOf{}, err
	}
	if after == before {
		return costOf{}, fmt.Errorf("process %d used no CPU time", pid)
	}
	used := (after - before).Seconds()
	return costOf{float64(out.All) / used, used / time.Since(begin).Seconds()}, nil
}
