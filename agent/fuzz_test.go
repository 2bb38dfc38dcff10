package agent

import (
	"bytes"
	"testing"
)

// FuzzWord: what another rank says is sane or refused.
func FuzzWord(f *testing.F) {
	f.Add([]byte(`{"rank":1,"node":"n","phase":5,"message":"m","lines":["a"],"port":4711,"left":1000}`))
	f.Add([]byte(`{"port":70000}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, text []byte) {
		w, err := decodeWord(bytes.NewReader(text))
		if err == nil && (w.Port < 0 || w.Port > 65535 || w.Rank < 0) {
			t.Errorf("%+v", w)
		}
		_ = w.failure()
	})
}
