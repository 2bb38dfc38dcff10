package object

import (
	"bytes"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/keyring"
)

func TestNames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var k kvstore.Key
		if err := k.UnmarshalBinary(rapid.SliceOfN(rapid.Byte(), kvstore.KeySize, kvstore.KeySize).Draw(t, "key")); err != nil {
			t.Fatal(err)
		}
		if back, ok := parseBlockName(blockName(k)); !ok || back != k {
			t.Fatalf("%s became %v", blockName(k), back)
		}
	})
	for _, name := range []string{"", "b/", "b/123/", "p/ab/abc", "b/000/" + strings.Repeat("0", 103)} {
		if _, ok := parseBlockName(name); ok {
			t.Errorf("%q is taken for a block", name)
		}
	}
	name := packName("ABCDEF", 1000, 2000)
	if id, at, n, ok := parsePackName(name); !ok || id != "ABCDEF" || at != 1000 || n != 2000 {
		t.Errorf("%s: %s %d %d %t", name, id, at, n, ok)
	}
	for _, name := range []string{"", "p/AB/ABCDEF", "p/AB/ABCDEF-0-0", "p/XX/ABCDEF-3e8-7d0", "p/AB/ABCDEF-3e8-7d0-1", "p/AB/ABCDEF-3e8-fffffffffff"} {
		if _, _, _, ok := parsePackName(name); ok {
			t.Errorf("%q is taken for a pack", name)
		}
	}
}

func TestTargets(t *testing.T) {
	for where, want := range map[[2]string]string{
		{"s3://bucket/a/b/", "https://host:9000"}: "", {"s3://bucket", ""}: "", {"file:///scratch/kv", ""}: "",
		{"s3:///a", ""}:                           "no bucket",
		{"file://host/a", ""}:                     "whole path",
		{"file:///a", "https://host"}:             "no endpoint",
		{"gs://bucket", ""}:                       "only s3:// and file://",
		{"s3://user:hunter2@bucket", ""}:          "nothing else",
		{"s3://bucket?secret=hunter2", ""}:        "nothing else",
		{"s3://bucket", "https://u:hunter2@host"}: "must be https://",
		{"s3://bucket", "host:9000"}:              "",
	} {
		_, err := parseTarget(where[0], where[1])
		if where[1] == "host:9000" {
			if err == nil {
				t.Errorf("%v: no error", where)
			}
			continue
		}
		if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", where, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error shows a password: %v", err)
		}
	}
}

// makePack is an object of some blocks and its tail.
func makePack(t interface{ Fatal(...any) }, ring *keyring.Ring, n int) (object, tail []byte, records []record) {
	b, sl, err := appendHead(nil, ring)
	if err != nil {
		t.Fatal(err)
	}
	p := &pack{seal: sl, head: bytes.Clone(b), records: map[kvstore.Key]record{}}
	for i := range n {
		blk := kvstore.NewBlock(data(i, 10*i), nil).Seal()
		r := record{key: key(i, 0), size: uint32(10 * i), sum: blk.Sum(), stored: int64(i), at: uint32(len(b))}
		b = sl.appendRecord(b, &r, blk.Bytes())
		p.records[r.key] = r
		records = append(records, r)
	}
	p.bytes = b
	return b, p.tail(), records
}

// TestFlippedBits: any changed bit of a pack's tail or of a record is seen.
func TestFlippedBits(t *testing.T) {
	ring, _ := keyring.New()
	for name, keys := range map[string]*keyring.Ring{"clear": nil, "encrypted": ring} {
		object, tail, records := makePack(t, keys, 5)
		s := openTest(t, Options{Keys: keys}, testFolder(t))
		sl, found, err := s.parseTail(tail, uint32(len(object)))
		if err != nil || len(found) != 5 {
			t.Fatalf("%s: %d records, %v", name, len(found), err)
		}
		for i := range tail {
			tail[i] ^= 1
			if _, _, err := s.parseTail(tail, uint32(len(object))); err == nil {
				t.Errorf("%s: byte %d of the tail is not checked", name, i)
			}
			tail[i] ^= 1
		}
		r := records[4]
		raw := object[r.at:][:sl.length(&r)]
		for i := range raw {
			raw[i] ^= 1
			if b, err := s.block(sl, r.key, raw, r.at); err == nil {
				b.Release()
				t.Errorf("%s: byte %d of a record is not checked", name, i)
			}
			raw[i] ^= 1
		}
	}
}

// FuzzTail and FuzzObject give a store any bytes.
func FuzzTail(f *testing.F) {
	_, tail, _ := makePack(f, nil, 3)
	f.Add(tail, uint32(10_000))
	f.Add([]byte{}, uint32(0))
	f.Fuzz(func(t *testing.T, tail []byte, at uint32) {
		s := &Store{}
		sl, records, err := s.parseTail(tail, at)
		for k, r := range records {
			if err != nil || r.key != k || int64(r.at)+int64(sl.length(&r)) > int64(at) {
				t.Fatalf("%+v, %v", r, err)
			}
		}
	})
}

func FuzzObject(f *testing.F) {
	object, _, _ := makePack(f, nil, 2)
	f.Add(object)
	f.Fuzz(func(t *testing.T, object []byte) {
		s := &Store{opts: Options{Alloc: kvstore.Heap{}}}
		r, sl, header, err := s.readHeader(bytes.NewReader(object))
		if err != nil {
			return
		}
		if rest := object[overhead:]; int(r.size) <= len(rest) {
			b, err := s.block(sl, r.key, append(header, rest[:r.size]...), headSize)
			if err == nil && b.Sum() != kvstore.Checksum(b.Bytes()) {
				t.Fatal("wrong bytes")
			}
		}
	})
}
