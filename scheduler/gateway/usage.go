package gateway

import (
	"strconv"

	"github.com/penstock/penstock/scheduler/gateway/rawjson"
)

// readUsage reads a usage object: OpenAI's names, or those of its responses.
func readUsage(object []byte) usage {
	var u usage
	if len(object) == 0 || object[0] != '{' {
		return u
	}
	for it := rawjson.Members(object, 0); it.Next(); {
		at := it.Value
		switch string(it.Key()) {
		case "prompt_tokens", "input_tokens":
			u.prompt, u.known = count(object[at:end(&it, at)]), true
		case "completion_tokens", "output_tokens":
			u.completion, u.known = count(object[at:end(&it, at)]), true
		case "prompt_tokens_details", "input_tokens_details":
			cached := inside(object[at:end(&it, at)], "cached_tokens")
			u.cached, u.cachedKnown = count(cached), cached != nil
		}
	}
	return u
}

// end takes the current value and returns its end, or its beginning when it is malformed.
func end(it *rawjson.Iter, start int) int { return max(start, it.Skip()) }

func count(v []byte) uint64 {
	n, err := strconv.ParseUint(string(v), 10, 48)
	if err != nil {
		return 0
	}
	return n
}

// answerUsage reads the usage of a whole answer.
func answerUsage(body []byte) usage {
	if len(body) == 0 || body[0] != '{' {
		return usage{}
	}
	return readUsage(inside(body, "usage"))
}

// append writes the usage as a stream's last chunk has it.
func (u usage) append(b []byte) []byte {
	b = append(b, `{"prompt_tokens":`...)
	b = strconv.AppendUint(b, u.prompt, 10)
	b = append(b, `,"total_tokens":`...)
	b = strconv.AppendUint(b, u.prompt+u.completion, 10)
	b = append(b, `,"completion_tokens":`...)
	b = strconv.AppendUint(b, u.completion, 10)
	if u.cached > 0 {
		b = append(b, `,"prompt_tokens_details":{"cached_tokens":`...)
		b = strconv.AppendUint(b, u.cached, 10)
		b = append(b, '}')
	}
	return append(b, '}')
}
