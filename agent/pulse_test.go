package agent

import (
	"errors"
	"testing"
	"time"
)

func TestPulse(t *testing.T) {
	t.Parallel()
	sick := errors.New("no answer")
	type look struct {
		work          float64
		health, token error // token is used only when one is wanted
	}
	tests := map[string]struct {
		looks []look // one every 10s
		want  int    // index of the look after which it is dead; -1 = alive
	}{
		"healthy":                        {[]look{{}, {}, {}, {}, {}, {}, {}, {}}, -1},
		"hangs":                          {[]look{{0, sick, sick}, {0, sick, sick}, {0, sick, sick}}, 2},
		"late but working":               {[]look{{1, sick, nil}, {2, sick, nil}, {3, sick, nil}, {4, sick, nil}}, -1},
		"one bad check is forgotten":     {[]look{{health: sick}, {health: sick}, {}, {health: sick}, {health: sick}, {}}, -1},
		"answers health, makes no token": {[]look{{token: sick}, {token: sick}, {token: sick}, {token: sick}, {token: sick}}, 4},
		"token proves life":              {[]look{{}, {}, {token: sick}, {token: sick}, {}, {}, {token: sick}}, -1},
	}
	for name, test := range tests {
		p := newPulse(Liveness{Failures: 3, Quiet: 30 * time.Second}, noon)
		got := -1
		for i, l := range test.looks {
			now := noon.Add(time.Duration(i+1) * 10 * time.Second)
			p.flowed(now, l.work)
			p.health(l.health)
			if p.wantsToken(now) {
				p.token(now, l.token)
			}
			if err, dead := p.dead(); dead && got < 0 {
				got = i
				if !errors.Is(err, sick) {
					t.Errorf("%s: reason %v", name, err)
				}
			}
		}
		if got != test.want {
			t.Errorf("%s: dead after look %d, want %d", name, got, test.want)
		}
	}
}
