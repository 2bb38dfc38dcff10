package process

import (
	"errors"
	"os"
)

// label is what a process shows of where it belongs.
type label struct {
	Mark
	nonce  string // of its tree
	veiled bool   // it shows nothing, but only for now
}

// identify reads what a process carries. It is nothing where the process has no mark or may not be looked at, and veiled
// where the kernel shows no environment for now: the process gives its memory back, which takes seconds where that is
// much, or becomes another program, which takes as long as the filesystem that holds it.
func identify(pid int) label {
	environ, err := readEnviron(procPath(pid, "environ"))
	switch {
	case len(environ) > 0:
		return labelOf(environ)
	case err != nil && !errors.Is(err, errGone): // some kernels call the environment gone where others show an empty one
		return label{}
	}
	now, err := readStat(pid)
	if err != nil || now.dead() {
		return label{}
	}
	environ = environOfThreads(pid) // also of the first one again, which may just have become a program
	l := labelOf(environ)
	l.veiled = len(environ) == 0 && (now.ending || !now.loaded)
	return l
}

func labelOf(environ []byte) (l label) {
	l.Mark, l.nonce = markOf(environ)
	return l
}

// environOfThreads reads the environment from the first thread that shows it: a process lives on when its first thread,
// for which it is named, has ended.
func environOfThreads(pid int) []byte {
	threads, err := os.ReadDir(procPath(pid, "task"))
	if err != nil {
		return nil
	}
	for _, thread := range threads {
		if environ, err := readEnviron(procPath(pid, "task/"+thread.Name()+"/environ")); err == nil && len(environ) > 0 {
			return environ
		}
	}
	return nil
}

func (p *Process) carriedBy(pid int) bool { return identify(pid).nonce == p.nonce }
