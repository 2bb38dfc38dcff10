package testbed

import (
	"bufio"
	"context"
	"strconv"
	"strings"
)

// RPCs counts what slurmctld has been asked by a user since it was started or ResetRPCs, by its own statistics (sdiag): all
// kinds together, because sdiag tells kinds and users apart but not both at once.
func (b *Bed) RPCs(ctx context.Context, u User) (int, error) {
	out, err := b.Root(ctx, "sdiag")
	if err != nil {
		return 0, err
	}
	return countOf(out, "Remote Procedure Call statistics by user", u.Name), nil
}

// RPCsOf counts one kind of question by all users, e.g. REQUEST_JOB_INFO, which is what squeue asks.
func (b *Bed) RPCsOf(ctx context.Context, kind string) (int, error) {
	out, err := b.Root(ctx, "sdiag")
	if err != nil {
		return 0, err
	}
	return countOf(out, "Remote Procedure Call statistics by message type", kind), nil
}

// ResetRPCs sets the counts to zero.
func (b *Bed) ResetRPCs(ctx context.Context) error {
	_, err := b.Root(ctx, "sdiag", "--reset")
	return err
}

// countOf finds the line `NAME ( ID) count:N ave_time:...` in a section of sdiag's report; 0 = not there.
func countOf(report, section, name string) int {
	in := false
	for lines := bufio.NewScanner(strings.NewReader(report)); lines.Scan(); {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, section):
			in = true
		case line != "" && line[0] != '\t' && line[0] != ' ':
			in = false
		case in:
			before, after, ok := strings.Cut(line, "count:")
			if fields := strings.Fields(before); ok && len(fields) > 0 && fields[0] == name {
				n, _ := strconv.Atoi(strings.Fields(after)[0])
				return n
			}
		}
	}
	return 0
}
