package kvstore

import (
	"errors"
	"testing"

	"pgregory.net/rapid"
)

func TestSpaceTellsLayoutsApart(t *testing.T) {
	base := Layout{Weights: "w", Engine: "vllm/1", DType: "bf16", Attention: "gqa", BlockTokens: 16, Ranks: 2}
	others := map[string]Layout{}
	for name, change := range map[string]func(*Layout){
		"weights": func(l *Layout) { l.Weights = "v" }, "engine": func(l *Layout) { l.Engine = "vllm/2" },
		"dtype": func(l *Layout) { l.DType = "fp8" }, "attention": func(l *Layout) { l.Attention = "mla" },
		"block": func(l *Layout) { l.BlockTokens = 32 }, "ranks": func(l *Layout) { l.Ranks = 4 },
		"shifted": func(l *Layout) { l.Weights, l.Engine = "wv", "llm/1" },
	} {
		l := base
		change(&l)
		others[name] = l
	}
	for name, l := range others {
		if NewSpace(l, "t") == NewSpace(base, "t") {
			t.Errorf("%s: the spaces meet", name)
		}
	}
	if NewSpace(base, "t") == NewSpace(base, "u") || NewSpace(base, "") == NewSpace(base, "t") {
		t.Error("tenants meet")
	}
	if again := base; NewSpace(again, "t") != NewSpace(base, "t") {
		t.Error("a space is not a function of its layout and tenant")
	}
}

func TestKeyBinary(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var k, back Key
		b := rapid.SliceOfN(rapid.Byte(), KeySize, KeySize).Draw(t, "key")
		if err := k.UnmarshalBinary(b); err != nil {
			t.Fatal(err)
		}
		again, _ := k.AppendBinary(nil)
		if err := back.UnmarshalBinary(again); err != nil || back != k || string(again) != string(b) {
			t.Fatalf("%x became %x (%v)", b, again, err)
		}
	})
	if err := new(Key).UnmarshalBinary(make([]byte, KeySize-1)); err == nil {
		t.Error("a short key was taken")
	}
}

func TestBlockLife(t *testing.T) {
	freed := 0
	b := NewBlock([]byte("abc"), ownerFunc(func() { freed++ })).Seal()
	b.Retain().Release()
	if freed != 0 || b.Shared() || string(b.Bytes()) != "abc" || b.Sum() != Checksum([]byte("abc")) {
		t.Fatalf("freed %d times, bytes %q", freed, b.Bytes())
	}
	b.Release()
	if freed != 1 {
		t.Fatalf("freed %d times", freed)
	}
	for name, use := range map[string]func(){"bytes": func() { b.Bytes() }, "release": b.Release, "retain": func() { b.Retain() }} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s after the last release went unnoticed", name)
				}
			}()
			use()
		}()
	}
	err := NewBlock([]byte("abd"), nil).SealAs(Checksum([]byte("abc")))
	if !errors.Is(err, ErrCorrupt) || !IsMiss(err) {
		t.Errorf("wrong bytes: %v", err)
	}
}

func TestUncheckedBlock(t *testing.T) {
	right, wrong := []byte("abc"), []byte("abd")
	if err := NewBlock(right, nil).SealUnchecked(Checksum([]byte("abc"))).Check(); err != nil {
		t.Error(err)
	}
	if err := NewBlock(wrong, nil).SealUnchecked(Checksum([]byte("abc"))).Check(); !errors.Is(err, ErrCorrupt) {
		t.Errorf("wrong bytes: %v", err)
	}
}

type ownerFunc func()

func (f ownerFunc) Free(*Block, []byte) { f() }
