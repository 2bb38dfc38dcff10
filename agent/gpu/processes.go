package gpu

import "slices"

// merge adds a process to a list, or its memory to that of the same process: it may hold memory on several instances of
// a card. A sum with an unknown part is unknown.
func merge(list []Process, p Process) []Process {
	i := slices.IndexFunc(list, func(q Process) bool { return q.PID == p.PID })
	if i < 0 {
		return append(list, p)
	}
	if list[i].Memory == nil || p.Memory == nil {
		list[i].Memory = nil
		return list
	}
	total := *list[i].Memory + *p.Memory
	list[i].Memory = &total
	return list
}

func lists(list []Process, pid int) bool {
	return slices.ContainsFunc(list, func(p Process) bool { return p.PID == pid })
}
