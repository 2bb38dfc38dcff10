package server

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// keptRecords is how many finished requests `penstock why` can explain.
const keptRecords = 10_000

// records keeps the last finished requests in memory and appends each one's usage to a file per day. Safe for concurrent
// use.
type records struct {
	dir string // usage folder, 0700

	mu    sync.Mutex
	byID  map[string]*apiv1.RequestRecord
	order []string // ring, oldest at next
	next  int
}

func newRecords(dir string) *records {
	return &records{dir: dir, byID: map[string]*apiv1.RequestRecord{}}
}

// add takes a gateway's records. A record that came before is dropped, since gateways deliver at least once.
func (r *records) add(recs []*apiv1.RequestRecord) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var fresh []*apiv1.RequestRecord
	for _, rec := range recs {
		if rec.GetId() == "" || r.byID[rec.Id] != nil {
			continue
		}
		fresh = append(fresh, rec)
		r.byID[rec.Id] = rec
		if len(r.order) < keptRecords {
			r.order = append(r.order, rec.Id)
			continue
		}
		delete(r.byID, r.order[r.next])
		r.order[r.next] = rec.Id
		r.next = (r.next + 1) % keptRecords
	}
	return r.write(fresh)
}

// write appends usage lines: one JSON object per request, in the order in which they came.
func (r *records) write(recs []*apiv1.RequestRecord) error {
	perDay := map[string][]byte{}
	for _, rec := range recs {
		line, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(usageOf(rec))
		if err != nil {
			return fmt.Errorf("encode usage of request %s: %w", rec.Id, err)
		}
		day := rec.GetAt().AsTime().UTC().Format(time.DateOnly)
		perDay[day] = append(append(perDay[day], line...), '\n')
	}
	for day, lines := range perDay {
		name := filepath.Join(r.dir, day+".jsonl")
		f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return fmt.Errorf("append usage: %w", err)
		}
		_, err = f.Write(lines)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return fmt.Errorf("append usage to %s: %w", name, err)
		}
	}
	return nil
}

// usageOf leaves out what only `why` needs.
func usageOf(rec *apiv1.RequestRecord) *apiv1.RequestRecord {
	return &apiv1.RequestRecord{
		Id: rec.Id, At: rec.At, Gateway: rec.Gateway, Model: rec.Model, KeyId: rec.KeyId, Tenant: rec.Tenant, Path: rec.Path,
		Status: rec.Status, Outcome: rec.Outcome, PromptTokens: rec.PromptTokens, CachedTokens: rec.CachedTokens,
		CompletionTokens: rec.CompletionTokens, UsageCounted: rec.UsageCounted, Ttft: rec.Ttft, Total: rec.Total,
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
		return nil, fmt.Errorf("request %q is not among the last %d finished ones: %w", id, len(r.order), errNotFound)
	}
	return found, nil
}

// Record takes finished requests of a gateway. Records that came before are dropped.
func (s *Server) Record(recs []*apiv1.RequestRecord) error { return s.records.add(recs) }
