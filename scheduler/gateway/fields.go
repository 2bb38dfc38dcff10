package gateway

import (
	"bytes"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock/penstock/scheduler/gateway/rawjson"
)

// steering are the body fields that steer an engine's internals. Only the gateway may set them: they name other requests' KV
// blocks, slots and hosts, or put one request before others.
var steering = []string{
	"kv_transfer_params", "ec_transfer_params", "disaggregated_params", "cache_salt", "id_slot", "priority",
	"data_parallel_rank", "dp_rank", "routed_dp_rank", "request_id",
}

// steeringPrefix begins the names of SGLang's fields that join prefill and decode.
const steeringPrefix = "bootstrap_"

// steeringHeaders are headers that do the same.
var steeringHeaders = []string{"X-Data-Parallel-Rank"}

// steers does not care for capitals: some engines' decoders don't.
func steers(name string) bool {
	return slices.ContainsFunc(steering, func(s string) bool { return strings.EqualFold(s, name) }) ||
		strings.HasPrefix(strings.ToLower(name), steeringPrefix)
}

// refuseSteering answers 400 for the first field or header that only the gateway may set. Taking it away in silence would
// let a client believe that it works. A field that is null asks for nothing and is taken away: drop names those.
func refuseSteering(body rawjson.Object, h http.Header) (drop []rawjson.Edit, refused *apiError) {
	for _, name := range steeringHeaders {
		if h.Get(name) != "" {
			return nil, badRequest(name, "field_not_allowed", "the header "+name+" may not be set by clients")
		}
	}
	for _, f := range body.Fields {
		name := string(f.Name)
		value := body.Raw[f.Value:f.ValueEnd]
		switch {
		case steers(name) && string(value) == "null":
			drop = append(drop, rawjson.Edit{Name: name})
		case steers(name):
			return nil, badRequest(name, "field_not_allowed", "the field "+strconv.Quote(name)+" may not be set by clients: only the gateway sets it")
		case strings.EqualFold(name, "vllm_xargs") && value[0] == '{':
			// vLLM hands these on to where it keeps transfer parameters itself.
			for it := rawjson.Members(value, 0); it.Next(); {
				key, _ := rawjson.AppendText(nil, it.Key())
				if steers(string(key)) {
					return nil, badRequest("vllm_xargs."+string(key), "field_not_allowed",
						"the field "+strconv.Quote("vllm_xargs."+string(key))+" may not be set by clients")
				}
			}
		}
	}
	return drop, nil
}

// The following read single values; absent and null are the same to clients and engines.

func absent(v []byte) bool { return v == nil || string(v) == "null" }

func isTrue(v []byte) bool { return string(v) == "true" }

// text returns a string's text. ok is false for anything else.
func text(v []byte) (s string, ok bool) {
	if len(v) < 2 || v[0] != '"' {
		return "", false
	}
	b, _ := rawjson.AppendText(nil, v[1:len(v)-1])
	return string(b), true
}

// number returns a number's value. ok is false for anything else.
func number(v []byte) (f float64, ok bool) {
	if len(v) == 0 || v[0] != '-' && (v[0] < '0' || v[0] > '9') {
		return 0, false
	}
	f, err := strconv.ParseFloat(string(v), 64)
	return f, err == nil
}

// integer returns a whole number that JSON writes as one.
func integer(v []byte) (n int64, ok bool) {
	n, err := strconv.ParseInt(string(v), 10, 64)
	return n, err == nil && !bytes.HasPrefix(v, []byte("+"))
}

// inside returns a member of an object value, nil when there is none.
func inside(object []byte, name string) []byte {
	if len(object) == 0 || object[0] != '{' {
		return nil
	}
	for it := rawjson.Members(object, 0); it.Next(); {
		if string(it.Key()) != name {
			continue
		}
		start := it.Value
		if end := it.Skip(); end > start {
			return object[start:end]
		}
		return nil
	}
	return nil
}
