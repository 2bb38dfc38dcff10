package gpu

import (
	"math"
	"slices"
)

// merge adds a process to a list, or its memory to that of the same process: it may hold memory on several instances of
// a card. A sum with an unknown part is unknown.
func merge(list []Process, p Process) []Process {
	i := slices.IndexFunc(list, func(q Process) bool { return q.PID == p.PID })
	if i < 0 {
		return append(list, p)
	}
	list[i].Memory = sum(list[i].Memory, p.Memory)
	return list
}

func sum(a, b *uint64) *uint64 {
	if a == nil || b == nil || *b > math.MaxUint64-*a {
		return nil
	}
	total := *a + *b
	return &total
}

func lists(list []Process, pid int) bool {
	return slices.ContainsFunc(list, func(p Process) bool { return p.PID == pid })
}
