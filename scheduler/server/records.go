package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// keptRecords is how many finished requests `penstock why` can explain.
const keptRecords = 10_000

// records keeps the last finished requests in memory and has each one's usage written down, once. Safe for concurrent use.
type records struct {
	mu      sync.Mutex
	arrived chan struct{} // closed when more come
	byID    map[string]*apiv1.RequestRecord
	order   []string // ring, oldest at next
	next    int
	asked   map[string]time.Time // by model: when the last request for it was over

	usage     usageFiles
	written   map[string]bool // by controllers before this one, as far as it matters
	unwritten []*apiv1.RequestRecord
	cause     error // of unwritten
}

func newRecords(dir string) *records {
	usage := newUsageFiles(dir)
	return &records{arrived: make(chan struct{}), byID: map[string]*apiv1.RequestRecord{}, asked: map[string]time.Time{}, usage: usage, written: usage.recent(keptRecords)}
}

// add takes a gateway's records. A record that came before is dropped, since gateways deliver at least once. An error means
// that usage could not be written: the gateway holds what it has and delivers it again, and so nothing is lost and what
// waits here is bounded.
func (r *records) add(recs []*apiv1.RequestRecord) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range recs {
		if rec.GetId() == "" || r.byID[rec.Id] != nil {
			continue
		}
		if !r.written[rec.Id] {
			r.unwritten = append(r.unwritten, rec)
		}
		r.remember(rec)
		if at := rec.GetAt().AsTime().Add(rec.GetTotal().AsDuration()); at.After(r.asked[rec.Model]) {
			r.asked[rec.Model] = at
		}
	}
	close(r.arrived)
	r.arrived = make(chan struct{})
	r.unwritten, r.cause = r.usage.append(r.unwritten)
	return r.cause
}

func (r *records) remember(rec *apiv1.RequestRecord) {
	r.byID[rec.Id] = rec
	if len(r.order) < keptRecords {
		r.order = append(r.order, rec.Id)
		return
	}
	delete(r.byID, r.order[r.next])
	r.order[r.next] = rec.Id
	r.next = (r.next + 1) % keptRecords
}

// askedAt is when the last request for a model was over; zero = none is known.
func (r *records) askedAt(model string) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked[model]
}

// trouble says what is not written down, and why; empty = all is.
func (r *records) trouble() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cause == nil {
		return ""
	}
	return fmt.Sprintf("usage of %d finished requests and of those that gateways hold back is not written yet: %v", len(r.unwritten), r.cause)
}

// usageOf leaves out what only `why` needs.
func usageOf(rec *apiv1.RequestRecord) *apiv1.RequestRecord {
	return &apiv1.RequestRecord{
		Id: rec.Id, At: rec.At, Gateway: rec.Gateway, Model: rec.Model, KeyId: rec.KeyId, Tenant: rec.Tenant, Path: rec.Path,
		Status: rec.Status, Outcome: rec.Outcome, PromptTokens: rec.PromptTokens, CachedTokens: rec.CachedTokens,
		CompletionTokens: rec.CompletionTokens, UsageCounted: rec.UsageCounted, Ttft: rec.Ttft, Total: rec.Total,
	}
}

const (
	// arrival is how long an unknown request is waited for: its gateway may have it and be about to hand it over.
	arrival = 2 * time.Second
	// settling is how long gateways have to hand over what they have just answered, where the latest is asked for.
	settling = 300 * time.Millisecond
)

// await is find for somebody who may have the answer before we have its record.
func (r *records) await(ctx context.Context, id string) (*apiv1.RequestRecord, error) {
	patience := arrival
	if id == "" {
		patience = settling
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		r.mu.Lock()
		arrived := r.arrived
		r.mu.Unlock()
		rec, err := r.find(id)
		if ctx.Err() != nil || id != "" && !errors.Is(err, errNotFound) {
			return rec, err
		}
		select {
		case <-arrived:
		case <-ctx.Done():
		}
	}
}

// find returns the record of a request id or of a unique prefix of one; of the latest request for an empty id.
func (r *records) find(id string) (*apiv1.RequestRecord, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if id == "" {
		if len(r.order) == 0 {
			return nil, fmt.Errorf("no finished request is known yet: %w", errNotFound)
		}
		last := len(r.order) - 1
		if len(r.order) == keptRecords {
			last = (r.next + keptRecords - 1) % keptRecords
		}
		return r.byID[r.order[last]], nil
	}
	if rec := r.byID[id]; rec != nil {
		return rec, nil
	}
	var found *apiv1.RequestRecord
	for k, rec := range r.byID {
		if strings.HasPrefix(k, id) {
			if found != nil {
				return nil, fmt.Errorf("request %q is ambiguous: %s and %s; give more characters: %w", id, found.Id, k, errInvalid)
			}
			found = rec
		}
	}
	if found == nil {
		return nil, fmt.Errorf("request %q is not known; %s: %w", id, countOf(len(r.order), "finished request is", "finished requests are"), errNotFound)
	}
	return found, nil
}

// Record takes finished requests of a gateway, and notes when their keys were used. Records that came before are dropped.
func (s *Server) Record(recs []*apiv1.RequestRecord) error {
	for _, rec := range recs {
		s.o.Keys.Used(rec.GetKeyId(), rec.GetAt().AsTime())
	}
	return s.records.add(recs)
}
