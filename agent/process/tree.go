package process

import "os"

// Tree gives a process and all its descendants by parentage, the process itself first. It is empty when there is no
// such process. A descendant that was orphaned is not in it: Process.Tree knows those too.
func Tree(pid int) ([]Proc, error) {
	all, err := scan()
	if err != nil {
		return nil, err
	}
	return descend(all, func(p Proc) bool { return p.PID == pid }), nil
}

// Tree gives the living processes of the tree, with orphans that came back to this process.
func (p *Process) Tree() ([]Proc, error) {
	all, err := scan()
	if err != nil {
		return nil, err
	}
	return living(p.members(all)), nil
}

// alive gives what has to end: the living members, and whatever else carries the nonce of the tree, because a subreaper
// or a helper outside the tree may have taken it in.
func (p *Process) alive() ([]Proc, error) {
	all, err := scan()
	if err != nil {
		return nil, err
	}
	member := map[int]bool{}
	for _, q := range p.members(all) {
		member[q.PID] = true
	}
	safe := untouchable(all)
	return living(descend(all, func(q Proc) bool {
		return member[q.PID] || !safe[q.PID] && owned(q.PID) && p.carriedBy(q.PID)
	})), nil
}

// members picks the processes of the tree out of all. The ID of the first process cannot be recycled before it is
// reaped, which is after the last look, so that its session and its group are exact.
func (p *Process) members(all []Proc) []Proc {
	leaders, alone := kin.leaders(), kin.alone(p)
	orphans := orphans(all, leaders)
	return descend(all, func(q Proc) bool {
		switch {
		case q.SID == p.pid || q.PGID == p.pid:
			return true
		case !orphans[q.PID] || leaders[q.SID] || leaders[q.PGID]:
			return false
		}
		return p.claims(q.PID, alone)
	})
}

// claims tells whether an orphan is of this tree: by its nonce, or, where there is no other tree, because it carries no
// mark or the nonce of a tree inside this one, such as the engine of an agent that was started here. What carries the
// token of another launch came from elsewhere.
func (p *Process) claims(pid int, alone bool) bool {
	mark, nonce := identify(pid)
	return nonce == p.nonce || alone && (mark.Launch == "" || mark.Launch == p.launch)
}

// orphans are the processes that this one, as subreaper, has become the parent of: children in another session that are
// not the first of a tree. What is started by other means stays in this process's session.
func orphans(all []Proc, leaders map[int]bool) map[int]bool {
	self := os.Getpid()
	session := -1
	for _, p := range all {
		if p.PID == self {
			session = p.SID
		}
	}
	found := map[int]bool{}
	for _, p := range all {
		if p.PPID == self && p.SID != session && !leaders[p.PID] {
			found[p.PID] = true
		}
	}
	return found
}

// descend gives those that pick names, then their children, their children's children and so on.
func descend(all []Proc, pick func(Proc) bool) []Proc {
	children := make(map[int][]Proc, len(all))
	for _, p := range all {
		children[p.PPID] = append(children[p.PPID], p)
	}
	var found []Proc
	in := make(map[int]bool)
	add := func(p Proc) {
		if !in[p.PID] {
			in[p.PID] = true
			found = append(found, p)
		}
	}
	for _, p := range all {
		if pick(p) {
			add(p)
		}
	}
	for i := 0; i < len(found); i++ {
		for _, child := range children[found[i].PID] {
			add(child)
		}
	}
	return found
}

func living(procs []Proc) []Proc {
	var alive []Proc
	for _, p := range procs {
		if !p.dead() {
			alive = append(alive, p)
		}
	}
	return alive
}

// untouchable holds this process and its ancestors.
func untouchable(all []Proc) map[int]bool {
	parent := make(map[int]int, len(all))
	for _, p := range all {
		parent[p.PID] = p.PPID
	}
	safe := map[int]bool{1: true}
	for pid := os.Getpid(); pid > 0 && !safe[pid]; pid = parent[pid] {
		safe[pid] = true
	}
	return safe
}

// identify reads what a process carries: nothing where it has no mark or does not show it.
func identify(pid int) (Mark, string) {
	environ, err := readEnviron(pid)
	if err != nil {
		return Mark{}, ""
	}
	return markOf(environ)
}

func (p *Process) carriedBy(pid int) bool {
	_, nonce := identify(pid)
	return nonce == p.nonce
}
