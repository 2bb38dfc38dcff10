// Package wire keeps the wire contract readable across releases: an agent inside a two-week job is older than the
// controller that was upgraded yesterday. testdata holds, for each release, its descriptor and one recorded message of
// each type with every field set. A new release is recorded with: go test ./tests/wire -record NAME
package wire

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

var record = flag.String("record", "", "record the present contract as that of this release")

func TestRecord(t *testing.T) {
	if *record == "" {
		return
	}
	dir := filepath.Join("testdata", *record)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name string, m proto.Message) {
		data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".binpb"), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("descriptor", protodesc.ToFileDescriptorProto(apiv1.File_v1_penstock_proto))
	for _, d := range messages(apiv1.File_v1_penstock_proto) {
		write(string(d.Name()), filled(dynamicpb.NewMessage(d), 0).Interface())
	}
}

// releases lists what is recorded.
func releases(t *testing.T) map[string]protoreflect.FileDescriptor {
	t.Helper()
	dirs, err := filepath.Glob("testdata/*")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no release is recorded: %v", err)
	}
	out := map[string]protoreflect.FileDescriptor{}
	for _, dir := range dirs {
		var p descriptorpb.FileDescriptorProto
		if err := proto.Unmarshal(read(t, dir, "descriptor"), &p); err != nil {
			t.Fatal(err)
		}
		f, err := protodesc.NewFile(&p, files{})
		if err != nil {
			t.Fatal(err)
		}
		out[dir] = f
	}
	return out
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name+".binpb"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Everything that the older release says, this one still understands, field by field.
func TestOldMessagesAreReadByThisRelease(t *testing.T) {
	t.Parallel()
	for dir, old := range releases(t) {
		for _, d := range messages(old) {
			is := apiv1.File_v1_penstock_proto.Messages().ByName(d.Name())
			if is == nil {
				t.Errorf("%s: message %s is gone", dir, d.Name())
				continue
			}
			data := read(t, dir, string(d.Name()))
			same(t, fmt.Sprintf("%s: %s", dir, d.Name()), data, d, is)
		}
	}
}

// Everything that this release says, the older one understands as far as it knows the fields.
func TestNewMessagesAreReadByOldReleases(t *testing.T) {
	t.Parallel()
	for dir, old := range releases(t) {
		for _, d := range messages(apiv1.File_v1_penstock_proto) {
			was := old.Messages().ByName(d.Name())
			if was == nil {
				continue // a message that the old release never gets to see
			}
			data, err := proto.Marshal(filled(dynamicpb.NewMessage(d), 0).Interface())
			if err != nil {
				t.Fatal(err)
			}
			same(t, fmt.Sprintf("%s: %s", dir, d.Name()), data, was, d)
		}
	}
}

// same checks that two readers of the same bytes see the same in all the fields that both know.
func same(t *testing.T, what string, data []byte, a, b protoreflect.MessageDescriptor) {
	t.Helper()
	ma, mb := dynamicpb.NewMessage(a), dynamicpb.NewMessage(b)
	if err := proto.Unmarshal(data, ma); err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	if err := proto.Unmarshal(data, mb); err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	compare(t, what, ma, mb)
}

func compare(t *testing.T, what string, a, b protoreflect.Message) {
	t.Helper()
	fields := a.Descriptor().Fields()
	for i := range fields.Len() {
		fa := fields.Get(i)
		fb := b.Descriptor().Fields().ByNumber(fa.Number())
		if fb == nil {
			continue
		}
		where := what + "." + string(fa.Name())
		if fa.Kind() != fb.Kind() || fa.Cardinality() != fb.Cardinality() || fa.Name() != fb.Name() {
			t.Errorf("%s: field %d was %s %s %s and is %s %s %s", where, fa.Number(), fa.Cardinality(), fa.Kind(), fa.Name(), fb.Cardinality(), fb.Kind(), fb.Name())
			continue
		}
		if a.Has(fa) != b.Has(fb) {
			t.Errorf("%s: set for one release and not for the other", where)
			continue
		}
		if fa.IsList() || fa.IsMap() || fa.Kind() != protoreflect.MessageKind {
			if text(a, fa) != text(b, fb) && !nested(fa) {
				t.Errorf("%s: %s and %s", where, text(a, fa), text(b, fb))
			}
			continue
		}
		if a.Has(fa) {
			compare(t, where, a.Get(fa).Message(), b.Get(fb).Message())
		}
	}
}

// nested lists and maps of messages are compared as messages of their own.
func nested(f protoreflect.FieldDescriptor) bool {
	return f.Kind() == protoreflect.MessageKind || f.IsMap() && f.MapValue().Kind() == protoreflect.MessageKind
}

func text(m protoreflect.Message, f protoreflect.FieldDescriptor) string {
	one := m.New()
	if m.Has(f) {
		one.Set(f, m.Get(f))
	}
	return protojson.Format(one.Interface())
}
