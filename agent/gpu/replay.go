package gpu

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Record writes a sample as one line of a recording.
func Record(w io.Writer, s Sample) error {
	line, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("record GPU sample: %w", err)
	}
	if _, err := w.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("record GPU sample: %w", err)
	}
	return nil
}

// ReplayOptions say how a recording is played.
type ReplayOptions struct {
	// Clock plays by time: the first call begins, and each call gives the sample that was the latest at that time of the
	// recording. Nil plays in order: each call gives the next sample, as it was recorded.
	Clock func() time.Time
	Loop  bool // begin again at the end
}

// Replay plays a recording. At its end it gives io.EOF, unless it loops.
type Replay struct {
	opts    ReplayOptions
	lines   [][]byte // checked; read anew for each call, so that no two samples share memory
	at      []time.Duration
	next    int
	started time.Time
}

var _ Sampler = (*Replay)(nil)

const (
	maxLine    = 1 << 20
	maxSamples = 1 << 20
)

// NewReplay reads a whole recording and checks it.
func NewReplay(r io.Reader, opts ReplayOptions) (*Replay, error) {
	p := &Replay{opts: opts}
	var first, last time.Time
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		s, err := parseSample(lines.Bytes())
		switch {
		case err != nil:
			return nil, fmt.Errorf("GPU recording, line %d: %w", n, err)
		case s.At.Before(last):
			return nil, fmt.Errorf("GPU recording, line %d: it is of %v, before the line above", n, s.At)
		case len(p.lines) == maxSamples:
			return nil, fmt.Errorf("GPU recording: more than %d samples", maxSamples)
		case len(p.lines) == 0:
			first = s.At
		}
		last = s.At
		p.lines = append(p.lines, bytes.Clone(lines.Bytes()))
		p.at = append(p.at, s.At.Sub(first))
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("GPU recording: %w", err)
	}
	if len(p.lines) == 0 {
		return nil, errors.New("GPU recording: it is empty")
	}
	return p, nil
}

// parseSample reads one line of a recording.
func parseSample(line []byte) (Sample, error) {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	var s Sample
	if err := dec.Decode(&s); err != nil {
		return Sample{}, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Sample{}, errors.New("more than one value on the line")
	}
	if s.At.IsZero() {
		return Sample{}, errors.New("no time (At)")
	}
	return s, nil
}

// Sample gives the next sample, or the one that is due.
func (p *Replay) Sample(ctx context.Context) (Sample, error) {
	if err := ctx.Err(); err != nil {
		return Sample{}, fmt.Errorf("replay GPU sample: %w", err)
	}
	i, shift := p.next, time.Duration(0)
	if p.opts.Clock != nil {
		i, shift = p.due()
	} else if p.opts.Loop {
		i %= len(p.lines)
	}
	if i >= len(p.lines) {
		return Sample{}, fmt.Errorf("replay GPU sample: the recording of %d samples has ended: %w", len(p.lines), io.EOF)
	}
	p.next++
	s, err := parseSample(p.lines[i])
	if err != nil {
		return Sample{}, fmt.Errorf("replay GPU sample: %w", err)
	}
	s.Source = "replay"
	if p.opts.Clock != nil {
		s.At = p.started.Add(shift)
	}
	return s, nil
}

// due gives the place of the latest sample and when it was due, counted from the start. The last sample lasts as long
// as the one before it did, a second if it is the only one.
func (p *Replay) due() (place int, shift time.Duration) {
	now := p.opts.Clock()
	if p.started.IsZero() {
		p.started = now
	}
	elapsed := max(0, now.Sub(p.started))
	last := len(p.at) - 1
	length := time.Second
	if last > 0 {
		length = p.at[last] + max(p.at[last]-p.at[last-1], 1)
	}
	if elapsed >= length {
		if !p.opts.Loop {
			return len(p.lines), 0
		}
		shift = elapsed / length * length
		elapsed -= shift
	}
	for place < last && p.at[place+1] <= elapsed {
		place++
	}
	return place, shift + p.at[place]
}
