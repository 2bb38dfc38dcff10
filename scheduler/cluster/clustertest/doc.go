// Package clustertest holds what every implementation of cluster.Cluster is tested with: the conformance suite (Run), and
// Sim, a cluster in memory whose clock, queue, nodes and faults belong to the test.
//
// It knows nothing of any real cluster. Adapters' tests call Run with a Factory; tests of the planner, the reconcile loop
// and the simulator use Sim (launches as jobs) or SimCounter (roles at a count) in place of a cluster.
package clustertest
