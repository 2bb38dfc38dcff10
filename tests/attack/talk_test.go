package attack

import (
	"bytes"
	"encoding/json"
	"sync"
	"testing"
)

// startGateway runs one more gateway of the victim's and returns its URL.
func (s *siege) startGateway(t *testing.T, name string, flags ...string) string {
	t.Helper()
	cmd := s.victim.Command(t.Context(), append([]string{"gateway", "--name", name, "--log-format", "json"}, flags...)...)
	cmd.Stdout, cmd.Stderr = &s.talk, &s.talk
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	at := ""
	waitFor(t, "gateway "+name+" serves", func() bool {
		for line := range bytes.Lines(s.talk.bytes()) {
			var said struct{ Message, Gateway, URL string }
			if json.Unmarshal(line, &said) == nil && said.Message == "gateway serves" && said.Gateway == name {
				at = said.URL
			}
		}
		return at != ""
	})
	return at
}

// talk keeps what a process says. Safe for concurrent use.
type talk struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (k *talk) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.text.Write(p)
}

func (k *talk) bytes() []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return bytes.Clone(k.text.Bytes())
}
