package jobspecs

import (
	"encoding/json"
	"reflect"
	"strconv"
)

// Schema is a JSON Schema (draft 2020-12) of the deployment file for editors. It is made from the same types and rules
// that Parse uses. What it can't say, such as tensor * pipeline * data = nodes * gpus, only Parse finds.
func Schema() []byte {
	s := schemaOf(place{}, reflect.TypeFor[Deployment]())
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "Penstock deployment"
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // maps of strings, numbers and lists always marshal
	}
	return append(text, '\n')
}

type node map[string]any

func schemaOf(at place, t reflect.Type) node {
	r := rules[at.rule]
	s := typeSchema(at, t, r)
	if r.doc != "" {
		s["description"] = r.doc
	}
	if r.byValue != "" {
		s["default"] = defaultOf(t, r.byValue)
	}
	return s
}

func typeSchema(at place, t reflect.Type, r rule) node {
	switch {
	case t.Kind() == reflect.Pointer:
		return typeSchema(at, t.Elem(), r)
	case t == bytesType:
		return orZero(node{"type": "string", "pattern": bytesPattern}, r)
	case t == durationType:
		return orZero(node{"type": "string", "pattern": durationPattern, "minLength": 1}, r)
	case t == gpusType:
		count := rules[at.rule+".count"]
		return node{"oneOf": []node{
			{"type": "integer", "minimum": count.min, "maximum": count.max},
			sectionSchema(at, t),
		}}
	}
	switch t.Kind() {
	case reflect.Struct:
		return sectionSchema(at, t)
	case reflect.Map:
		return mapSchema(at, t, r)
	case reflect.Slice:
		return node{"type": "array", "minItems": 1, "items": schemaOf(at.item(0), t.Elem())}
	case reflect.Bool:
		return node{"type": "boolean"}
	case reflect.String:
		return textSchema(t, r)
	}
	s := node{"type": "integer", "minimum": r.min}
	if r.max > 0 {
		s["maximum"] = r.max
	}
	return s
}

// orZero lets a bare 0 stand for a size or a span where zero is allowed.
func orZero(s node, r rule) node {
	if r.min > 0 {
		return s
	}
	return node{"anyOf": []node{s, {"const": 0}}}
}

func textSchema(t reflect.Type, r rule) node {
	switch {
	case enums[t] != nil:
		return node{"type": "string", "enum": enums[t]}
	case r.literal:
		return node{"type": []string{"string", "number", "boolean"}}
	case r.form != nil:
		return node{"type": "string", "pattern": r.form.pattern}
	case r.free:
		return node{"type": "string"}
	}
	return node{"type": "string", "minLength": 1}
}

func mapSchema(at place, t reflect.Type, r rule) node {
	value := schemaOf(at.entry(""), t.Elem())
	s := node{"type": "object", "minProperties": 1}
	names := enums[t.Key()]
	if names == nil {
		s["additionalProperties"] = value
		s["propertyNames"] = node{"pattern": r.keys.pattern}
		return s
	}
	keys := node{}
	for _, name := range names {
		keys[name] = value
	}
	s["properties"] = keys
	s["additionalProperties"] = false
	for key, facts := range relations[at.rule] {
		s[key] = facts
	}
	return s
}

func sectionSchema(at place, t reflect.Type) node {
	keys := node{}
	var required []string
	for _, f := range fieldsOf(t) {
		child := at.child(f.key)
		keys[f.key] = schemaOf(child, t.Field(f.index).Type)
		if rules[child.rule].required {
			required = append(required, f.key)
		}
	}
	s := node{"type": "object", "properties": keys, "additionalProperties": false}
	if required != nil {
		s["required"] = required
	}
	for key, facts := range relations[at.rule] {
		s[key] = facts
	}
	return s
}

// relations are those checks between fields that a schema can express.
var relations = map[string]node{
	"model": {"anyOf": []node{{"required": []string{"id"}}, {"required": []string{"path"}}}},
	"roles": {
		"dependentRequired": node{string(Prefill): []string{string(Decode)}, string(Decode): []string{string(Prefill)}},
		"not":               node{"required": []string{string(Mixed), string(Decode)}},
	},
	"kv.disk":          {"dependentRequired": node{"path": []string{"size"}, "size": []string{"path"}}},
	"roles.*.gpus":     {"dependentRequired": node{"type": []string{"count"}, "memory": []string{"count"}}},
	"engine.container": {"dependentRequired": node{"image": []string{"runtime"}, "mounts": []string{"image"}}},
}

// defaultOf turns a default as the table writes it into the type that the file would hold.
func defaultOf(t reflect.Type, text string) any {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t.Kind() == reflect.Bool:
		return text == "true"
	case t.Kind() == reflect.Int:
		if n, err := strconv.Atoi(text); err == nil {
			return n
		}
	}
	return text
}
