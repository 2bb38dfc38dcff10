package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

const (
	// maxKVLine bounds one line of an agent's answer, and kvSilence the time between two.
	maxKVLine = 1 << 20
	kvSilence = 2 * time.Minute
)

// KV asks a run's agent about its KV tiers and calls each for every part of the answer, until it returns an error. It is for the
// controller: agents answer nobody else.
func (c *Client) KV(ctx context.Context, t Target, q *apiv1.KVRequest, each func(*apiv1.KVResponse) error) error {
	body, err := protojson.Marshal(q)
	if err != nil {
		return err
	}
	resp, err := c.Do(ctx, t, Call{Path: "/penstock/tiers", Body: body, FirstByte: kvSilence})
	if err != nil {
		return err
	}
	defer resp.Close()
	if resp.Status != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp, maxProbeAnswer))
		if resp.Status == http.StatusNotFound {
			return errNoTiers
		}
		return &StatusError{Status: resp.Status, Body: firstLine(text)}
	}
	lines := bufio.NewScanner(resp)
	lines.Buffer(nil, maxKVLine)
	for lines.Scan() {
		var part apiv1.KVResponse
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(lines.Bytes(), &part); err != nil {
			return fmt.Errorf("read what launch %s says of its KV tiers: %w", t.Launch, err)
		}
		if err := each(&part); err != nil {
			return err
		}
	}
	if err := lines.Err(); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("launch %s has said nothing for %s", t.Launch, kvSilence)
	} else if err != nil {
		return fmt.Errorf("read what launch %s says of its KV tiers: %w", t.Launch, err)
	}
	return nil
}

// errNoTiers is also the answer of an agent that is older than this call.
var errNoTiers = errors.New("it has no KV tiers of its own")
