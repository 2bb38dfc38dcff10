package slurm

import (
	"context"
	"errors"
	"strings"
	"time"
)

// sacctFields are what is asked of the accounting, in the order of parseAccounts' reading.
const sacctFields = "JobIDRaw,JobName,State,ExitCode,Start,End,Submit,Partition,NodeList,WorkDir,Comment"

// account is one run of a job in the accounting.
type account struct {
	id, name, state    string
	exit               status
	start, end, submit time.Time
	partition          string
	nodes              string
	workDir, comment   string
}

// accountQuery is what is asked of the accounting: jobs by their IDs, else all of this user's since a time.
type accountQuery struct {
	ids   []string
	since time.Time
}

func (c commands) accounts(ctx context.Context, q accountQuery) ([]account, error) {
	args := []string{
		"--noheader", "--parsable2", "--allocations", "--duplicates", "--delimiter=" + separator, "--format=" + sacctFields,
	}
	if len(q.ids) > 0 {
		args = append(args, "--jobs="+strings.Join(q.ids, ","))
	} else {
		args = append(args, "--user="+myUser(), "--starttime="+q.since.Local().Format("2006-01-02T15:04:05"))
	}
	out, err := c.run(ctx, "", "sacct", args...)
	if f := (*failure)(nil); errors.Is(err, errNoCommand) || errors.As(err, &f) && f.says("accounting storage is disabled", "not running with a supported accounting") {
		return nil, errNoAccounting
	}
	if err != nil {
		return nil, err
	}
	return parseAccounts(out), nil
}

// parseAccounts reads what can be read: a line that can't is a job of which nothing is known.
func parseAccounts(out string) (list []account) {
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), separator)
		if len(f) != strings.Count(sacctFields, ",")+1 || !isJobID(f[0]) {
			continue
		}
		a := account{id: f[0], name: f[1], state: f[2], exit: parseExit(f[3]), partition: f[7], nodes: f[8], workDir: f[9], comment: f[10]}
		var bad error
		for i, t := range []*time.Time{&a.start, &a.end, &a.submit} {
			var err error
			*t, err = parseTime(f[4+i])
			bad = errors.Join(bad, err)
		}
		if bad == nil {
			list = append(list, a)
		}
	}
	return list
}
