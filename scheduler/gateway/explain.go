package gateway

import (
	"encoding/json"
	"net/http"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// A client that sends headerExplain: 1 gets the choice in headerRoute, as JSON. It names replicas, never launches or nodes.
const (
	headerExplain = "Penstock-Explain"
	headerRoute   = "Penstock-Route"
)

// explanation is what `penstock why` prints of an attempt.
type explanation struct {
	Replica     string             `json:"replica"`
	PredictedMs float64            `json:"predicted_ms"`
	Parts       map[string]float64 `json:"parts_ms"`
	Cached      uint64             `json:"expected_cached_tokens"`
	Reason      string             `json:"reason"`
	RunnersUp   []other            `json:"runners_up"`
	Keys        string             `json:"prefix_keys"`
	KeysMs      float64            `json:"prefix_ms"`
}

type other struct {
	Replica     string  `json:"replica"`
	PredictedMs float64 `json:"predicted_ms"`
}

// explainIn puts the choices so far into a header, if the client asked for them.
func (q *request) explainIn(h http.Header) {
	if !q.explain {
		return
	}
	var all []explanation
	for _, a := range q.attempts {
		all = append(all, q.explanation(a))
	}
	if b, err := json.Marshal(all); err == nil {
		h.Set(headerRoute, string(b))
	}
}

func (q *request) explanation(a *apiv1.Attempt) explanation {
	e := explanation{
		Replica: a.Replica, PredictedMs: a.PredictedMs, Parts: a.PartsMs, Cached: a.ExpectedCached, Reason: a.Reason, RunnersUp: []other{},
	}
	for _, u := range a.RunnersUp {
		e.RunnersUp = append(e.RunnersUp, other{u.Replica, u.PredictedMs})
	}
	if q.keys != nil {
		e.Keys, e.KeysMs = q.keys.kind, float64(q.keys.took)/1e6
	}
	return e
}
