// Package render turns a deployment into the text of jobs, one function per cluster: Local is the script of the local
// cluster, Sbatch the batch script of one launch under Slurm. What they print is plain, readable and holds no secret.
//
// It is pure, and knows nothing of what runs or where: names that are only known at a start (folders, ports, addresses)
// are shell variables with defaults. `penstock render` prints the text; a cluster's adapter uses the same functions to
// build what it submits, so that the two can't differ.
package render

import "strconv"

// Agent is the command line of one rank's agent where the cluster does not number the ranks itself. joinFile is the path of the launch's 0600
// file: the token itself is never on a command line.
func Agent(self, joinFile string, rank, nodes int) []string {
	return []string{self, "agent", "--join", joinFile, "--rank", strconv.Itoa(rank), "--nodes", strconv.Itoa(nodes)}
}
