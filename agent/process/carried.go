package process

import (
	"bytes"
	"slices"
)

// Values lists, sorted and once each, what a variable holds in the environments of this user's living processes that carry the
// tree's mark: its members, and what another program has started for them, such as Slurm the tasks of a step.
func (p *Process) Values(name string) ([]string, error) {
	all, err := scan()
	if err != nil {
		return nil, err
	}
	var values []string
	for _, q := range living(all) {
		if !owned(q.PID) || !p.carriedBy(q.PID) {
			continue
		}
		environ, err := readEnviron(procPath(q.PID, "environ"))
		if err != nil {
			continue // it has ended
		}
		for entry := range bytes.SplitSeq(environ, []byte{0}) {
			if value, ok := bytes.CutPrefix(entry, []byte(name+"=")); ok {
				values = append(values, string(value))
				break
			}
		}
	}
	slices.Sort(values)
	return slices.Compact(values), nil
}
