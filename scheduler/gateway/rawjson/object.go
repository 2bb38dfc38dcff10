package rawjson

import (
	"bytes"
	"fmt"
	"slices"
)

// MaxFields is how many fields Parse takes in one object.
const MaxFields = 512

// Object is one JSON object whose values stay where they are in Raw. It is a value that nobody changes after Parse.
type Object struct {
	Raw    []byte
	Fields []Field
	open   int // of the opening brace
}

// Field is one field of an Object. The offsets point into Object.Raw.
type Field struct {
	Name     []byte // its escapes resolved
	Key      int    // the opening quote of the name
	Value    int    // first byte of the value
	ValueEnd int
}

// Parse reads an object whose values are nested at most maxDepth deep in all. Two fields of one name are an error, since
// readers differ in which of them they take.
func Parse(b []byte, maxDepth int) (Object, error) {
	if err := Check(b, maxDepth); err != nil {
		return Object{}, err
	}
	open := space(b, 0)
	if b[open] != '{' {
		return Object{}, &SyntaxError{open, "an object is wanted"}
	}
	o := Object{Raw: b, open: open}
	for it := Members(b, open); it.Next(); {
		name := it.Key()
		if bytes.IndexByte(name, '\\') >= 0 {
			name, _ = AppendText(nil, name)
		}
		f := Field{Name: name, Key: it.KeyAt(), Value: it.Value}
		if f.ValueEnd = it.Skip(); len(o.Fields) == MaxFields {
			return Object{}, &SyntaxError{f.Key, fmt.Sprintf("more than %d fields", MaxFields)}
		}
		o.Fields = append(o.Fields, f)
	}
	return o, o.unique()
}

func (o Object) unique() error {
	order := make([]int, len(o.Fields))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return bytes.Compare(o.Fields[a].Name, o.Fields[b].Name) })
	for i := 1; i < len(order); i++ {
		if a, b := o.Fields[order[i-1]], o.Fields[order[i]]; bytes.Equal(a.Name, b.Name) {
			return &SyntaxError{max(a.Key, b.Key), fmt.Sprintf("the field %q stands here a second time", a.Name)}
		}
	}
	return nil
}

// Get returns a field's value as it stands, nil when there is no such field.
func (o Object) Get(name string) []byte {
	for _, f := range o.Fields {
		if string(f.Name) == name {
			return o.Raw[f.Value:f.ValueEnd]
		}
	}
	return nil
}

// Edit sets one field. A nil Value takes the field away.
type Edit struct {
	Name  string // free of characters that JSON would escape
	Value []byte // JSON
}

// Edit appends the object with edits made to dst. A field that is set keeps its place, a new one comes last, and all other
// fields keep their bytes and their order. Of two edits of one name the first counts.
func (o Object) Edit(dst []byte, edits ...Edit) []byte {
	if len(o.Fields) == 0 {
		dst = append(dst, o.Raw[:o.open+1]...)
		dst = o.appendNew(dst, false, edits)
		return append(dst, o.Raw[o.open+1:]...)
	}
	dst = append(dst, o.Raw[:o.Fields[0].Key]...)
	kept := false
	for i, f := range o.Fields {
		edit := find(edits, f.Name)
		if edit >= 0 && edits[edit].Value == nil {
			continue
		}
		if kept {
			dst = append(dst, o.Raw[o.Fields[i-1].ValueEnd:f.Key]...)
		}
		kept = true
		if edit < 0 {
			dst = append(dst, o.Raw[f.Key:f.ValueEnd]...)
			continue
		}
		dst = append(dst, o.Raw[f.Key:f.Value]...)
		dst = append(dst, edits[edit].Value...)
	}
	dst = o.appendNew(dst, kept, edits)
	return append(dst, o.Raw[o.Fields[len(o.Fields)-1].ValueEnd:]...)
}

func (o Object) appendNew(dst []byte, comma bool, edits []Edit) []byte {
	for i, e := range edits {
		if e.Value == nil || o.Get(e.Name) != nil || find(edits, []byte(e.Name)) < i {
			continue
		}
		if comma {
			dst = append(dst, ',')
		}
		comma = true
		dst = append(dst, '"')
		dst = append(dst, e.Name...)
		dst = append(dst, '"', ':')
		dst = append(dst, e.Value...)
	}
	return dst
}

func find(edits []Edit, name []byte) int {
	for i := range edits {
		if edits[i].Name == string(name) {
			return i
		}
	}
	return -1
}
