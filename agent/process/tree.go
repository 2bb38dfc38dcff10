package process

import (
	"errors"
	"fmt"
	"os"
)

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
	p.looking.Lock()
	defer p.looking.Unlock()
	all, err := scan()
	if err != nil {
		return nil, err
	}
	members, _ := p.members(all)
	return p.remember(members), nil
}

// errVeiled says that a process does not show whose it is, for now.
var errVeiled = errors.New("starts or ends just now and does not show whose it is")

// alive gives what has to end of the processes that read gives: the living members, and whatever else carries the nonce of the tree, because a subreaper
// or a helper outside the tree may have taken it in. Where it finds none, but an orphan that may be one, the error is
// errVeiled.
func (p *Process) alive(read func() ([]Proc, error)) ([]Proc, error) {
	p.looking.Lock()
	defer p.looking.Unlock()
	all, err := read()
	if err != nil {
		return nil, err
	}
	members, doubtful := p.members(all)
	in := map[int]bool{}
	for _, q := range members {
		in[q.PID] = true
	}
	safe := untouchable(all)
	alive := p.remember(descend(all, func(q Proc) bool {
		return in[q.PID] || !safe[q.PID] && owned(q.PID) && p.carriedBy(q.PID)
	}))
	if len(alive) == 0 && len(doubtful) > 0 {
		return nil, fmt.Errorf("%s: %w", describe(doubtful), errVeiled)
	}
	return alive, nil
}

// remember keeps which processes were found, so that one that ends, and no longer shows its mark, is still known. It
// gives those that live.
func (p *Process) remember(found []Proc) []Proc {
	alive := living(found)
	p.known = make(map[int]Proc, len(alive))
	for _, q := range alive {
		p.known[q.PID] = q
	}
	return alive
}

// members picks the processes of the tree out of all, and those orphans that may be of this tree or of another one. The
// ID of the first process cannot be recycled before it is reaped, which is after the last look, so that its session and
// its group are exact.
func (p *Process) members(all []Proc) (members, doubtful []Proc) {
	leaders, alone := kin.leaders(), kin.alone(p)
	orphans := orphans(all, leaders)
	members = descend(all, func(q Proc) bool {
		switch {
		case q.SID == p.pid || q.PGID == p.pid || p.known[q.PID].same(q):
			return true
		case !orphans[q.PID] || leaders[q.SID] || leaders[q.PGID]:
			return false
		}
		who := identify(q.PID)
		ours := p.claims(who, alone)
		if !ours && who.veiled {
			doubtful = append(doubtful, q)
		}
		return ours
	})
	return members, doubtful
}

// claims tells whether an orphan is of this tree: by its nonce, or, where there is no other tree, because it carries no
// mark or the nonce of a tree inside this one, such as the engine of an agent that was started here. What carries the
// token of another launch came from elsewhere.
func (p *Process) claims(who label, alone bool) bool {
	return who.nonce == p.nonce || alone && (who.Launch == "" || who.Launch == p.launch)
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
