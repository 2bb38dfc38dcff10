// Command bench measures Penstock against a reference in the same run and prints one line for each figure:
//
//	BENCH name value unit reference ref_value ratio
//
// The ratio is such that more is better and 1 is like the reference; where nothing else is natural, the reference is a
// goal. Lines that begin with # say on what machine, and how busy others kept it. Every figure is taken side by side with
// its reference, alternating, over several rounds, and is the median of them. Nothing here passes or fails.
//
// gateway: the real path, a client → `penstock gateway` → `penstock agent` (mTLS) → an engine, against the same engine over
// its unix socket. The engine is a process of this program that the agents start by engine.command: it answers at a
// pace (20 tokens a second for each stream), and writes into every event the time at which it sends it. So what is on
// its way is told from what the engine itself is late:
//
//	token:  arrival at the client − time that the engine wrote into the event
//	TTFT:   (arrival of the first token − request sent) − (first token sent by the engine − request read by the engine)
//	added:  quantile through the gateway − the same quantile on the direct way, with the same load
//
// Streams run at phases of their own (a real engine's API server writes out the tokens of a step one after the other).
// "step" figures have all streams of one engine send at the same instant, as if it cost nothing: the hardest case, in which
// most of the time is spent waiting for the tokens before it. All processes, the engine and the client too, share this
// machine's cores.
//
// "beside_relays" figures are what the gateway adds beside what two bare relays add on the same machine in the same run:
// processes in place of gateway and agents that copy bytes between the same kinds of connections (TCP, TLS, unix socket) and
// do nothing else. With a connection for each request, and so a read and a write for each token and hop, nobody can add less.
//
// What a core can do is counted by the CPU time of the gateway's process, with key, limits and metering, against
// httputil.ReverseProxy (FlushInterval −1, no checks at all) in a process of its own in front of the same agents: tokens of
// 400 streams at 20 a second each, and requests while clients keep the machine busy, for streams of 32 tokens that are sent
// at once (agents pass several on together then) and for whole answers.
//
// plan: plan.Plan, and whole cycles of reconcile.Loop over a simulated cluster and a real ledger, for 10,000 replicas on
// 1,000 nodes. Linearity is taken from 5,000 replicas on 500 nodes.
//
// agent: CPU and memory of a real `penstock agent` of a local deployment, with 8 GPUs of a stub NVML that is found by dlopen.
// What the driver itself would take is not in it.
//
// controller: ledger, fleet, reconcile loop and server as in `penstock serve`, over a simulated cluster that "starts" 1,000
// jobs, and as many simulated agents in one other process: each joins with its own token, keeps a TLS connection of its
// own, and reports 8 GPUs, load and KV cache each second. A gateway watches. The report's lag is the time until its
// acknowledgement has come, with the cost of 1,000 agents on the same cores.
//
// route: the index of blocks, by the CPU time of this process, against the same thing as a Go map of maps; and the choice of a
// replica. What is replaced and moved between tiers goes on inside the measured time; nothing is left to be applied later.
//
// modes: ways to choose a replica, on simulated engines in virtual time (scheduler/sim) and the same trace with its times moved at
// random, ten seeds: the median, with the least and the greatest. -trace names the trace.
//
// sim: how long the simulator takes itself.
//
// disk: the NVMe tier of package kvstore/disk in a folder under TMPDIR against fio with the same block size, direct I/O and
// as many workers; a restart over a million blocks; write amplification while twenty times the budget goes through.
//
// kv: Put and Get of package kvstore/mem, in a store that is full, against copying the same bytes; what a million stored
// blocks cost beside their bytes; and with -trace the hit ratios of a trace against goals and the clairvoyant.
//
// object: the object tier of package kvstore/object over a versitygw of its own against bare minio-go with the same blocks and
// parallelism; small blocks that are packed, put until they are durable and read in one call, against one object each.
//
// resp: SET and GET over eight loopback connections at the RESP door, in a process of its own over package kvstore/mem, against
// redis-server (where it is installed) and against a process that only copies the same bytes. One client process asks all three.
//
// peer: blocks that one agent fetches from another over mTLS, against as many bytes over as many bare TLS connections to the
// same process. shm: the same blocks in the other process's shared memory, against copying as many bytes within one process; both
// sides check them.
//
// On a machine that others use, figures of tails say more about them than about Penstock. -priority (root) has everything
// that is measured, and its reference, run before the others' work.
//
// -profile DIR writes CPU profiles: the real program then runs inside this one. Its figures are not worth recording.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	penstock string // the program that is measured
	self     string // this program, for its other roles
	profile  string // folder for CPU profiles; empty = none
	trace    string // of prompts; empty = none
	record   bool
	priority bool
	parts    []part
	rows     []string // of the gateway's part; empty = all
}

// wants says whether a row is to be measured.
func (o *options) wants(row string) bool { return o.rows == nil || slices.Contains(o.rows, row) }

// part is one group of figures.
type part struct {
	name    string
	measure func(context.Context, *options, *report) error
}

var parts = []part{{"gateway", benchGateway}, {"plan", benchPlan}, {"agent", benchAgent}, {"controller", benchController}, {"route", benchRoute}, {"modes", benchModes}, {"sim", benchSim}, {"disk", benchDisk}, {"kv", benchKV}, {"object", benchObject}, {"resp", benchRESP}, {"peer", benchPeer}, {"shm", benchSHM}}

func main() {
	if code, ok := playRole(os.Args); ok {
		os.Exit(code)
	}
	o, err := parse()
	if err == nil {
		err = run(o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse() (*options, error) {
	o := &options{}
	flag.StringVar(&o.penstock, "penstock", "bin/penstock", "the program to measure")
	flag.StringVar(&o.profile, "profile", "", "write CPU profiles into this folder")
	flag.StringVar(&o.trace, "trace", "", "a trace of prompts for the parts modes, sim and kv, as the Mooncake project publishes them")
	flag.BoolVar(&o.record, "record", false, "write tests/bench/RESULTS.md")
	flag.BoolVar(&o.priority, "priority", false, "as root, on a machine that others use: give all that is measured real-time priority")
	rows := flag.String("rows", "", "only these rows of the gateway's part, of 1,64,1000,64_step,tokens,stream,whole")
	only := flag.String("only", "all", "all, or some of gateway,plan,agent,controller,route,modes,sim,disk,kv,object,resp,peer,shm")
	flag.Parse()
	var err error
	for _, path := range []*string{&o.penstock, &o.profile, &o.trace} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return nil, err
		}
	}
	if o.self, err = os.Executable(); err != nil {
		return nil, err
	}
	for _, p := range parts {
		if *only == "all" || slices.Contains(strings.Split(*only, ","), p.name) {
			o.parts = append(o.parts, p)
		}
	}
	if len(o.parts) == 0 {
		return nil, fmt.Errorf("-only %s names no part; there are gateway, plan, agent, controller and route", *only)
	}
	if *rows != "" {
		o.rows = strings.Split(*rows, ",")
	}
	if o.record && (o.rows != nil || o.profile != "" || len(o.parts) < len(parts)) {
		return nil, errors.New("-record needs a whole run without -profile and -rows")
	}
	return o, nil
}

func run(o *options) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if o.priority {
		if err := takePriority(o.self); err != nil {
			return err
		}
	}
	if err := raiseFileLimit(); err != nil {
		return err
	}
	if o.profile != "" {
		var err error
		if o.self, err = copySelf(o.self, o.profile); err != nil {
			return err
		}
		o.penstock = o.self
	}
	r := &report{out: os.Stdout}
	machine(r, o)
	for _, p := range o.parts {
		begin := time.Now()
		neighbours(r, p.name)
		if err := p.measure(ctx, o, r); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		r.note("%s took %.0f s", p.name, time.Since(begin).Seconds())
	}
	if o.record {
		return r.save("tests/bench/RESULTS.md")
	}
	return nil
}

// raiseFileLimit allows as many open files as the system gives; the processes that are started inherit it.
func raiseFileLimit() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	if limit.Cur = limit.Max; limit.Max < 8192 {
		return fmt.Errorf("1,000 streams need 8,192 open files in one process, the system allows %d: raise `ulimit -Hn`", limit.Max)
	}
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}
