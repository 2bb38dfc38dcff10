package sim

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/kvstore/evict"
)

// Request is one request of a trace.
type Request struct {
	At     time.Duration // from the trace's begin
	Prompt int           // tokens
	Output int           // tokens; at least 1
	// Blocks names the prompt's blocks of Trace.BlockTokens tokens, the first one first: equal numbers are equal blocks after equal
	// beginnings. The last one need not be full. Nil: nothing is known, and no two prompts begin alike.
	Blocks []uint64
	Key    string // who asks; "" = nobody in particular
}

// Trace is requests in the order of their times.
type Trace struct {
	Name        string
	BlockTokens int
	Requests    []Request
}

// MooncakeBlock is the block size of the traces of the Mooncake project.
const MooncakeBlock = 512

// ReadTrace reads a trace of one of three forms, told by its first line: JSON lines of the Mooncake project ({"timestamp": ms,
// "input_length", "output_length", "hash_ids"}), the CSV of the Azure LLM inference traces (TIMESTAMP,ContextTokens,GeneratedTokens),
// and the gateway's own usage lines. Requests are put in order.
func ReadTrace(name string, in io.Reader) (Trace, error) {
	t := Trace{Name: name, BlockTokens: MooncakeBlock}
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 64<<10), 16<<20)
	var parse func([]byte) (Request, error)
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		if parse == nil {
			var header bool
			if parse, header = formOf(line); parse == nil {
				return t, fmt.Errorf("%s: line 1 is neither a Mooncake request, nor a usage line, nor the head of an Azure trace", name)
			}
			if header {
				continue
			}
		}
		r, err := parse(line)
		if errors.Is(err, errNoRequest) {
			continue
		}
		if err != nil {
			return t, fmt.Errorf("%s: line %d: %w", name, n, err)
		}
		t.Requests = append(t.Requests, r)
	}
	if err := lines.Err(); err != nil {
		return t, fmt.Errorf("%s: %w", name, err)
	}
	if len(t.Requests) == 0 {
		return t, fmt.Errorf("%s: no requests", name)
	}
	t.sort()
	first := t.Requests[0].At
	for i := range t.Requests {
		t.Requests[i].At -= first
	}
	return t, nil
}

// errNoRequest: the line is right, but of something else.
var errNoRequest = errors.New("no request")

func formOf(line []byte) (parse func([]byte) (Request, error), header bool) {
	switch {
	case bytes.HasPrefix(line, []byte("TIMESTAMP,")):
		return parseAzure, true
	case line[0] != '{':
		return nil, false
	}
	var probe map[string]json.RawMessage
	if json.Unmarshal(line, &probe) != nil {
		return nil, false
	}
	switch {
	case probe["hash_ids"] != nil:
		return parseMooncake, false
	case probe["prompt_tokens"] != nil:
		return parseUsage, false
	}
	return nil, false
}

const maxTokens = 1 << 24 // of one request; more is damage

func checked(r Request) (Request, error) {
	if r.Prompt < 1 || r.Output < 0 || r.Prompt > maxTokens || r.Output > maxTokens {
		return r, fmt.Errorf("%d prompt and %d output tokens are out of range", r.Prompt, r.Output)
	}
	r.Output = max(1, r.Output)
	return r, nil
}

func parseMooncake(line []byte) (Request, error) {
	r, err := evict.ParseRequest(line, MooncakeBlock)
	if err != nil {
		return Request{}, err
	}
	return checked(Request{At: time.Duration(r.At) * time.Millisecond, Prompt: r.Prompt, Output: r.Output, Blocks: r.Blocks})
}

// parseAzure reads TIMESTAMP,ContextTokens,GeneratedTokens.
func parseAzure(line []byte) (Request, error) {
	fields := strings.Split(string(line), ",")
	if len(fields) != 3 {
		return Request{}, fmt.Errorf("%d fields, not 3", len(fields))
	}
	at, err := time.Parse("2006-01-02 15:04:05.9999999", fields[0])
	if err != nil {
		return Request{}, err
	}
	prompt, err1 := strconv.Atoi(fields[1])
	output, err2 := strconv.Atoi(fields[2])
	if err := errors.Join(err1, err2); err != nil {
		return Request{}, err
	}
	return checked(Request{At: time.Duration(at.UnixNano()), Prompt: prompt, Output: output})
}

// parseUsage reads a line of the gateway's usage files, in which numbers of 64 bits are strings.
func parseUsage(line []byte) (Request, error) {
	var in struct {
		At         time.Time `json:"at"`
		Key        string    `json:"key"`
		Prompt     uint64    `json:"prompt_tokens,string"`
		Completion uint64    `json:"completion_tokens,string"`
	}
	if err := json.Unmarshal(line, &in); err != nil {
		return Request{}, err
	}
	if in.Prompt == 0 {
		return Request{}, errNoRequest // refused, or never begun
	}
	return checked(Request{At: time.Duration(in.At.UnixNano()), Prompt: int(min(in.Prompt, maxTokens+1)), Output: int(min(in.Completion, maxTokens+1)), Key: in.Key})
}

// sort puts requests in the order of their times.
func (t Trace) sort() {
	slices.SortStableFunc(t.Requests, func(a, b Request) int { return cmp.Compare(a.At, b.At) })
}

// Length is when its last request comes.
func (t Trace) Length() time.Duration {
	if len(t.Requests) == 0 {
		return 0
	}
	return t.Requests[len(t.Requests)-1].At
}

// Faster is the trace with all times divided.
func (t Trace) Faster(times float64) Trace {
	t.Requests = slices.Clone(t.Requests)
	for i := range t.Requests {
		t.Requests[i].At = time.Duration(float64(t.Requests[i].At) / times)
	}
	return t
}

// Jitter moves every request by up to so much to either side, drawn by the seed: to see how much of a figure is chance.
func (t Trace) Jitter(by time.Duration, seed uint64) Trace {
	rng := draws(seed)
	t.Requests = slices.Clone(t.Requests)
	for i := range t.Requests {
		t.Requests[i].At = max(0, t.Requests[i].At+time.Duration((2*rng.uniform()-1)*float64(by)))
	}
	t.sort()
	return t
}
