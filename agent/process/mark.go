package process

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"strings"
)

// Names of the variables that mark the processes of a launch. None is a secret.
const (
	EnvLaunch  = "PENSTOCK_LAUNCH"  // launch token
	EnvRun     = "PENSTOCK_RUN"     // nonce of the run
	EnvRank    = "PENSTOCK_RANK"    // which agent of the job
	EnvProcess = "PENSTOCK_PROCESS" // drawn by Start, one for each tree
)

// LaunchToken names one launch. It stands in job names and is no secret.
type LaunchToken string

// Mark is carried in the environment by every process of a tree. The agent itself and the job script around it carry
// launch and run too; the rank only what an agent started.
type Mark struct {
	Launch LaunchToken
	Run    string
	Rank   string
}

// Environ gives the variables that carry the mark. SPT_NOENV is among them because Python's setproctitle, which vLLM's
// and SGLang's workers call, otherwise overwrites the environment that the kernel shows, and the mark with it.
func (m Mark) Environ() []string {
	env := []string{EnvLaunch + "=" + string(m.Launch), "SPT_NOENV=1"}
	if m.Run != "" {
		env = append(env, EnvRun+"="+m.Run)
	}
	if m.Rank != "" {
		env = append(env, EnvRank+"="+m.Rank)
	}
	return env
}

func (m Mark) check() error {
	switch {
	case m.Launch == "":
		return errors.New("no launch token: what it starts could not be found again")
	case strings.ContainsRune(string(m.Launch)+m.Run+m.Rank, 0):
		return errors.New("a mark must not hold a NUL byte")
	}
	return nil
}

// newNonce draws the value that sets one tree apart from others with the same mark.
func newNonce() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program first
	return hex.EncodeToString(b[:])
}

// markOf reads the mark and the tree's nonce out of an environment as /proc/PID/environ shows it. A variable that is
// there twice counts once, as getenv(3) has it.
func markOf(environ []byte) (m Mark, nonce string) {
	seen := map[string]bool{}
	for entry := range bytes.SplitSeq(environ, []byte{0}) {
		name, value, ok := bytes.Cut(entry, []byte("="))
		if !ok || !bytes.HasPrefix(name, []byte("PENSTOCK_")) || seen[string(name)] {
			continue
		}
		seen[string(name)] = true
		switch string(name) {
		case EnvLaunch:
			m.Launch = LaunchToken(value)
		case EnvRun:
			m.Run = string(value)
		case EnvRank:
			m.Rank = string(value)
		case EnvProcess:
			nonce = string(value)
		}
	}
	return m, nonce
}
