package evict

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
)

// Request is one prompt of a trace: the blocks of its whole prefix, root first.
type Request struct {
	At     int64    // ms from the trace's beginning
	Prompt int      // tokens
	Output int      // tokens; 0 = the trace does not say
	Blocks []uint64 // equal numbers are equal blocks with equal prefixes
	Full   int      // how many of Blocks are full: only these can be the beginning of a later prompt
	// GoesOn says whether a later request continues this one's conversation; see Conversations.
	GoesOn bool
}

// maxTraceBlocks bounds a request: a million blocks are more than any context has.
const maxTraceBlocks = 1 << 20

// ParseRequest reads a line of a trace as the Mooncake project publishes them: {"timestamp": ms, "input_length": tokens,
// "hash_ids": [...]}, a hash for each blockTokens tokens.
func ParseRequest(line []byte, blockTokens int) (Request, error) {
	var in struct {
		Timestamp    *int64   `json:"timestamp"`
		InputLength  int      `json:"input_length"`
		OutputLength int      `json:"output_length"`
		HashIDs      []uint64 `json:"hash_ids"`
	}
	if err := json.Unmarshal(line, &in); err != nil {
		return Request{}, fmt.Errorf("a line of a trace is a JSON object with timestamp, input_length and hash_ids: %w", err)
	}
	switch {
	case in.Timestamp == nil || in.HashIDs == nil:
		return Request{}, fmt.Errorf("a line of a trace needs timestamp and hash_ids")
	case *in.Timestamp < 0 || in.InputLength < 0 || len(in.HashIDs) > maxTraceBlocks:
		return Request{}, fmt.Errorf("timestamp %d, input_length %d or %d hash_ids are out of range", *in.Timestamp, in.InputLength, len(in.HashIDs))
	}
	return Request{
		At: *in.Timestamp, Prompt: in.InputLength, Output: in.OutputLength, Blocks: in.HashIDs, Full: min(in.InputLength/blockTokens, len(in.HashIDs)),
	}, nil
}

// minConversation is the number of blocks from which on a common beginning is taken for a conversation's history rather
// than for an instruction that many share.
const minConversation = 3

// Conversations sets GoesOn of every request by looking ahead: a request continues the one whose full blocks are the
// longest beginning of its own. It returns the number of requests that are continued.
func Conversations(trace []Request) (continued int) {
	last := map[uint64]int{} // a request's last full block -> the request
	for j := range trace {
		r := &trace[j]
		for n := len(r.Blocks); n >= minConversation; n-- {
			if i, ok := last[r.Blocks[n-1]]; ok {
				if !trace[i].GoesOn {
					trace[i].GoesOn = true
					continued++
				}
				break
			}
		}
		if r.Full >= minConversation {
			last[r.Blocks[r.Full-1]] = j
		}
	}
	return continued
}

// TraceID is the name of a trace's block.
func TraceID(n uint64) (id ID) {
	x := n * 0x9e3779b97f4a7c15
	binary.LittleEndian.PutUint64(id[:], x^x>>32)
	binary.LittleEndian.PutUint64(id[8:], n)
	return id
}
