package sim

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Constrained output: what a grammar leaves open is filled from the hash of the prompt, and the result is what the
// sequence generates, token by token.

const grammarDepth = 8 // deeper schemas get null

// schema is the part of JSON Schema that is filled in.
type schema struct {
	Type       schemaType                 `json:"type"`
	Properties map[string]json.RawMessage `json:"properties"`
	Required   []string                   `json:"required"`
	Items      json.RawMessage            `json:"items"`
	MinItems   int                        `json:"minItems"`
	Enum       []json.RawMessage          `json:"enum"`
	Const      json.RawMessage            `json:"const"`
	AnyOf      []json.RawMessage          `json:"anyOf"`
	Minimum    *float64                   `json:"minimum"`
}

// schemaType is one type or the first of several.
type schemaType string

// UnmarshalJSON reads a word or a list of words.
func (t *schemaType) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*t = schemaType(one)
		return nil
	}
	var many []string
	if err := json.Unmarshal(b, &many); err != nil || len(many) == 0 {
		return fmt.Errorf("type: must be a word or a list of words")
	}
	*t = schemaType(many[0])
	return nil
}

// anyObject is what response_format json_object asks for.
const anyObject = `{"type":"object","properties":{"answer":{"type":"string"},"confidence":{"type":"number"},"final":{"type":"boolean"}}}`

// instance is a JSON text that fits the schema (the keywords of type schema; no $ref), a pure function of both arguments.
func instance(raw json.RawMessage, seed uint64) (string, error) {
	var b strings.Builder
	err := writeInstance(&b, raw, seed, 0)
	return b.String(), err
}

func writeInstance(b *strings.Builder, raw json.RawMessage, seed uint64, depth int) error {
	var s schema
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &s); err != nil {
			return fmt.Errorf("JSON schema: %w", err)
		}
	}
	switch {
	case depth >= grammarDepth:
		b.WriteString("null")
	case len(s.Const) > 0:
		b.WriteString(compact(s.Const))
	case len(s.Enum) > 0:
		b.WriteString(compact(s.Enum[seed%uint64(len(s.Enum))]))
	case len(s.AnyOf) > 0:
		return writeInstance(b, s.AnyOf[0], seed, depth+1)
	case s.Type == "object" || s.Type == "" && len(s.Properties) > 0:
		return writeObject(b, s, seed, depth)
	case s.Type == "array":
		return writeArray(b, s, seed, depth)
	default:
		b.WriteString(scalar(s, seed))
	}
	return nil
}

func writeObject(b *strings.Builder, s schema, seed uint64, depth int) error {
	names := slices.Clone(s.Required)
	for n := range s.Properties {
		names = append(names, n)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	b.WriteByte('{')
	for i, n := range names {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(quote(n) + ": ")
		if err := writeInstance(b, s.Properties[n], mix(seed, uint64(i)), depth+1); err != nil {
			return err
		}
	}
	b.WriteByte('}')
	return nil
}

func writeArray(b *strings.Builder, s schema, seed uint64, depth int) error {
	b.WriteByte('[')
	for i := range min(max(s.MinItems, 1+int(seed%2)), 100) {
		if i > 0 {
			b.WriteString(", ")
		}
		if err := writeInstance(b, s.Items, mix(seed, uint64(i)), depth+1); err != nil {
			return err
		}
	}
	b.WriteByte(']')
	return nil
}

func scalar(s schema, seed uint64) string {
	low := 0.0
	if s.Minimum != nil {
		low = *s.Minimum
	}
	switch s.Type {
	case "integer":
		return fmt.Sprint(int64(low) + int64(seed%100))
	case "number":
		return fmt.Sprint(low + float64(seed%100)/100)
	case "boolean":
		return fmt.Sprint(seed%2 == 0)
	case "null":
		return "null"
	default:
		return quote(strings.TrimSpace(objects[seed%uint64(len(objects))]))
	}
}

func quote(s string) string { return string(appendJSONString(nil, s)) }
