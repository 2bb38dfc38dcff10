package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// TestKV: the request goes on as it is, each line of the answer comes out, also of an agent that is younger, and what is no
// answer is an error.
func TestKV(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		body   string
		parts  int
		err    string
	}{
		"parts":         {200, `{"tiers":[{"tier":"host","blocks":"3"}]}` + "\n" + `{"moved":{"blocks":"2","done":true},"ofALaterRelease":{}}` + "\n", 2, ""},
		"nothing":       {200, "", 0, ""},
		"no tiers":      {404, `{"error":{"message":"no KV tiers"}}`, 0, "no KV tiers of its own"},
		"refused":       {403, "not you\nand more", 0, "not you"},
		"no JSON":       {200, `{"tiers":[]}` + "\nalas\n", 1, "read what launch l1 says"},
		"endless":       {200, strings.Repeat("x", maxKVLine+1), 0, "too long"},
		"the own error": {200, "{}\n{}\n", 1, "enough"},
	} {
		agent := newAgent(t, nil, "", func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil || r.Method != http.MethodPost || r.URL.Path != "/penstock/tiers" || !strings.Contains(string(body), `"flush"`) {
				t.Errorf("%s: %s %s: %s, %v", name, r.Method, r.URL, body, err)
			}
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		})
		client := newClient(t, Options{Plaintext: true})
		n := 0
		err := client.KV(context.Background(), agent.target("l1", "r1"), &apiv1.KVRequest{Verb: "flush"}, func(*apiv1.KVResponse) error {
			if n++; name == "the own error" {
				return errors.New("enough")
			}
			return nil
		})
		if n != c.parts || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %d parts, %v", name, n, err)
		}
	}
}

// TestKVOfNobody: an agent that cannot be reached is an error.
func TestKVOfNobody(t *testing.T) {
	t.Parallel()
	agent := newAgent(t, nil, "", func(http.ResponseWriter, *http.Request) {})
	target := agent.target("l1", "r1")
	agent.Close()
	err := newClient(t, Options{Plaintext: true}).KV(t.Context(), target, &apiv1.KVRequest{Verb: "stat"}, func(*apiv1.KVResponse) error { return nil })
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("connect to launch l1 at %s", target.Address)) {
		t.Error(err)
	}
}
