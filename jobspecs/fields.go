package jobspecs

import (
	"reflect"
	"strconv"
	"strings"
)

// field is one key of a section of the file. Decoding, encoding, checks and schema all walk the Go types by fieldsOf, so
// that a key can't exist in one of them only.
type field struct {
	key       string
	index     int
	omitEmpty bool
}

// fieldsOf lists a struct's keys in the order of its declaration.
func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		key, option, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		fields = append(fields, field{key: key, index: i, omitEmpty: option == "omitempty"})
	}
	return fields
}

func keysOf(t reflect.Type) []string {
	var keys []string
	for _, f := range fieldsOf(t) {
		keys = append(keys, f.key)
	}
	return keys
}

// place is where a value stands: its path in this file, and the name of its rule, in which list items are [] and the
// keys of maps are *.
type place struct{ path, rule string }

func (p place) child(key string) place {
	return place{join(p.path, key), join(p.rule, key)}
}

func (p place) entry(key string) place {
	return place{join(p.path, key), join(p.rule, "*")}
}

func (p place) item(i int) place {
	return place{p.path + "[" + strconv.Itoa(i) + "]", p.rule + "[]"}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// parent is the path one level up; "" is above all.
func parent(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}

// over reports whether a is b or one of the sections that b stands in.
func over(a, b string) bool {
	rest, ok := strings.CutPrefix(b, a)
	return ok && (rest == "" || a == "" || rest[0] == '.' || rest[0] == '[')
}

var (
	bytesType    = reflect.TypeFor[Bytes]()
	durationType = reflect.TypeFor[Duration]()
	gpusType     = reflect.TypeFor[GPURequest]()
	roleType     = reflect.TypeFor[Role]()
)
