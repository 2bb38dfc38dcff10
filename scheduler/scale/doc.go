// Package scale says how many replicas a deployment should have, as pure functions of what was seen, of how long its engines' steps take
// (Model), and of how long a new replica takes to come. It does no I/O and reads no clock, and does not know clusters, gateways or
// how a replica is started. Its callers are the reconcile loop and the simulator.
package scale
