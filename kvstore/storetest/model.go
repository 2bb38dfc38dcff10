package storetest

import (
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/kvstore"
)

// Step is one operation of a history, as the metamorphic tests play it on stores that are built differently.
type Step struct {
	Op      string // put, get, many, has, delete, settle
	Key     int    // of few
	Part    int
	Size    int
	Version uint64
}

const keysOfHistory = 8

// Steps draws a history.
func Steps(t *rapid.T) []Step {
	version := uint64(0)
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Step {
		version++
		return Step{
			Op:  rapid.SampledFrom([]string{"put", "put", "put", "get", "get", "many", "has", "delete", "settle"}).Draw(t, "op"),
			Key: rapid.IntRange(0, keysOfHistory-1).Draw(t, "key"), Part: rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(t, "part"),
			Size: rapid.SampledFrom([]int{headSize, 100, 5000, 20_000, 40_000}).Draw(t, "size"), Version: version,
		}
	}), 10, 120).Draw(t, "steps")
}

// Play plays a history on a store. Every answer must be the one of a plain map, or a miss: an error names the first that is
// neither. strict forbids misses of what is there.
func Play(t *testing.T, s Subject, steps []Step, strict bool) error {
	p := player{t: t, s: s, mem: NewMemory(), want: map[kvstore.Key]Step{}, strict: strict}
	for i, step := range steps {
		if err := p.step(step); err != nil {
			return fmt.Errorf("step %d, %+v: %w", i, step, err)
		}
	}
	for k := range p.want {
		if err := p.get(k); err != nil {
			return fmt.Errorf("at the end: %w", err)
		}
	}
	return nil
}

type player struct {
	t      *testing.T
	s      Subject
	mem    *Memory
	want   map[kvstore.Key]Step
	maybe  map[kvstore.Key][]Step // puts that failed, and so may or may not have taken place
	strict bool
}

func (p *player) step(s Step) error {
	k := part(s.Key, s.Part)
	switch s.Op {
	case "put":
		return p.put(k, s)
	case "get":
		return p.get(k)
	case "many":
		return p.many(k, part(s.Key, 1-s.Part), part((s.Key+1)%keysOfHistory, 0))
	case "has":
		info, err := p.s.Store.Has(p.t.Context(), k)
		if err == nil && info.Size != int64(p.want[k].Size) && !p.maybeSize(k, info.Size) {
			return fmt.Errorf("has %d bytes, not %d", info.Size, p.want[k].Size)
		}
		return p.missed(k, err)
	case "delete":
		return p.delete(k)
	case "settle":
		if p.s.Settle != nil {
			p.s.Settle()
		}
	}
	return nil
}

func (p *player) put(k kvstore.Key, s Step) error {
	b := p.mem.value(k, s.Version, s.Size)
	defer b.Release()
	err := p.s.Store.Put(p.t.Context(), k, b, kvstore.Hint{})
	switch {
	case err == nil:
		p.want[k] = s
		delete(p.maybe, k)
	case p.strict:
		return err
	default:
		p.doubt(k, s)
	}
	return nil
}

func (p *player) delete(k kvstore.Key) error {
	err := p.s.Store.Delete(p.t.Context(), k)
	switch {
	case err == nil:
		delete(p.want, k)
		delete(p.maybe, k)
	case p.strict:
		return err
	default:
		p.doubt(k, p.want[k])
	}
	return nil
}

func (p *player) doubt(k kvstore.Key, s Step) {
	if p.maybe == nil {
		p.maybe = map[kvstore.Key][]Step{}
	}
	p.maybe[k] = append(p.maybe[k], s)
}

func (p *player) maybeSize(k kvstore.Key, size int64) bool {
	for _, s := range p.maybe[k] {
		if int64(s.Size) == size {
			return true
		}
	}
	return false
}

func (p *player) get(k kvstore.Key) error {
	b, err := p.s.Store.Get(p.t.Context(), k)
	if err != nil {
		return p.missed(k, err)
	}
	defer b.Release()
	return p.right(k, b)
}

func (p *player) many(keys ...kvstore.Key) error {
	found := map[kvstore.Key]bool{}
	err := p.s.Store.GetMany(p.t.Context(), keys, func(i int, b *kvstore.Block) error {
		found[keys[i]] = true
		return p.right(keys[i], b)
	})
	if err != nil && (p.strict || errors.Is(err, errWrong)) {
		return err
	}
	for _, k := range keys {
		if !found[k] {
			if err := p.missed(k, kvstore.ErrNotFound); err != nil {
				return err
			}
		}
	}
	return nil
}

var errWrong = errors.New("wrong bytes")

func (p *player) right(k kvstore.Key, b *kvstore.Block) error {
	v, ok := versionOf(b.Bytes(), k)
	want, there := p.want[k]
	if ok && there && v == want.Version && b.Len() == want.Size {
		return nil
	}
	for _, s := range p.maybe[k] {
		if ok && s.Version == v && b.Len() == s.Size {
			return nil
		}
	}
	return fmt.Errorf("%w under %s: %d bytes, version %d (whole: %t), not version %d (there: %t)", errWrong, k, b.Len(), v, ok, want.Version, there)
}

func (p *player) missed(k kvstore.Key, err error) error {
	if _, there := p.want[k]; there && err != nil && p.strict {
		return fmt.Errorf("%s is missing: %w", k, err)
	}
	if err != nil && p.strict && !kvstore.IsMiss(err) {
		return err
	}
	return nil
}

// model: random histories against a map, in enough room that nothing has to go.
func model(t *testing.T, open Open) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := Steps(rt)
		s := open(t, Options{Moves: func(kvstore.Move) {}})
		err := Play(t, s, steps, true)
		if s.Close != nil {
			err = errors.Join(err, s.Close())
		}
		if err != nil {
			rt.Fatal(err)
		}
	})
}
