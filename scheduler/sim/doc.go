// Package sim plays traces of requests on replicas in virtual time, through the very same decisions that the gateway and the
// controller make: scheduler/route chooses, scheduler/admit orders who waits, scheduler/scale says how many replicas there should be.
// It answers what every user of a cluster asks: how many nodes for how long do I ask for?
//
// Engines are those of scale.Model with a paged, prefix-caching KV cache (pool), like the simulated engine's (agent/engine/sim), whose
// replays in real time it is checked against. A run is a function of its Config and trace: equal ones give equal results.
//
// It does no I/O but to read a trace from an io.Reader, and knows neither clusters' commands nor files. Its callers are
// `penstock simulate` and the benchmarks.
package sim
