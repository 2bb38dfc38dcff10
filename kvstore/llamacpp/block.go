package llamacpp

import (
	"encoding/binary"
	"fmt"
	"io"
)

// A block is a head and the rows of its tokens, row by row of the shape, little endian:
//
//	u32 magic "PKLB", version 1, tokens, rows, x, y;  rows × { i32 type, u64 bytes };  rows × tokens × bytes
const (
	blockMagic   = 0x424c4b50
	blockVersion = 1
	blockHead    = 24
	rowHead      = 12
)

func (s Shape) headSize() int64 { return blockHead + rowHead*int64(len(s.Rows)) }

// BlockSize is the length of a block of that many tokens.
func (s Shape) BlockSize(tokens int) int64 { return s.headSize() + s.PerToken()*int64(tokens) }

// Cut writes the block of tokens from, from+1, … into dst, which has BlockSize(tokens) bytes.
func (f *File) Cut(dst []byte, from, tokens int) error {
	if from < 0 || tokens <= 0 || from+tokens > len(f.Tokens) || int64(len(dst)) != f.Shape.BlockSize(tokens) {
		panic(fmt.Sprintf("llamacpp: cut of tokens %d to %d of %d into %d bytes", from, from+tokens, len(f.Tokens), len(dst)))
	}
	h := dst[:0]
	for _, n := range []uint32{blockMagic, blockVersion, uint32(tokens), uint32(len(f.Shape.Rows)), f.Shape.X, f.Shape.Y} {
		h = binary.LittleEndian.AppendUint32(h, n)
	}
	for _, r := range f.Shape.Rows {
		h = binary.LittleEndian.AppendUint32(h, uint32(r.Type))
		h = binary.LittleEndian.AppendUint64(h, uint64(r.Bytes))
	}
	rest := dst[len(h):]
	for i, r := range f.Shape.Rows {
		n := r.Bytes * int64(tokens)
		if m, err := f.r.ReadAt(rest[:n], f.at[i]+int64(from)*r.Bytes); int64(m) < n {
			return fmt.Errorf("read rows of tokens %d to %d: %w", from, from+tokens, err)
		}
		rest = rest[n:]
	}
	return nil
}

// parseBlock tells a block's shape and tokens, and where its rows begin.
func parseBlock(b []byte) (s Shape, tokens int, rows []byte, err error) {
	if len(b) < blockHead {
		return s, 0, nil, fmt.Errorf("%w: %d bytes are too few", ErrShape, len(b))
	}
	var head [6]uint32
	for i := range head {
		head[i] = binary.LittleEndian.Uint32(b[4*i:])
	}
	n := int(head[3])
	if head[0] != blockMagic || head[1] != blockVersion || head[2] == 0 || head[2] > maxTokens || n == 0 || n > 2*maxLayers || len(b) < blockHead+rowHead*n {
		return s, 0, nil, fmt.Errorf("%w: its head is %x", ErrShape, head)
	}
	s = Shape{Rows: make([]Row, n), X: head[4], Y: head[5]}
	for i := range s.Rows {
		r := b[blockHead+rowHead*i:]
		s.Rows[i] = Row{int32(binary.LittleEndian.Uint32(r)), int64(binary.LittleEndian.Uint64(r[4:]))}
		if s.Rows[i].Bytes <= 0 || s.Rows[i].Bytes > maxRow {
			return s, 0, nil, fmt.Errorf("%w: a row has %d bytes", ErrShape, s.Rows[i].Bytes)
		}
	}
	tokens = int(head[2])
	if int64(len(b)) != s.BlockSize(tokens) {
		return s, 0, nil, fmt.Errorf("%w: it has %d bytes, not %d", ErrShape, len(b), s.BlockSize(tokens))
	}
	return s, tokens, b[s.headSize():], nil
}

// Builder puts the blocks of one prefix together to a slot file. Blocks may come in any order, so that they can be written as
// they arrive from a store. It is not safe for use by several goroutines at once.
type Builder struct {
	w      io.WriterAt
	tokens []uint32
	step   int   // tokens of each block
	shape  Shape // of the first block that came
	at     []int64
	have   []bool
}

// NewBuilder begins a file for tokens, which are whole blocks of step tokens each.
func NewBuilder(w io.WriterAt, tokens []uint32, step int) *Builder {
	if step <= 0 || len(tokens) == 0 || len(tokens)%step != 0 {
		panic(fmt.Sprintf("llamacpp: %d tokens are no blocks of %d", len(tokens), step))
	}
	return &Builder{w: w, tokens: tokens, step: step, have: make([]bool, len(tokens)/step)}
}

// Put writes the rows of the i-th block. Errors wrap ErrShape, or are the writer's.
func (b *Builder) Put(i int, block []byte) error {
	shape, tokens, rows, err := parseBlock(block)
	if err != nil {
		return err
	}
	if tokens != b.step {
		return fmt.Errorf("%w: it has %d tokens, not %d", ErrShape, tokens, b.step)
	}
	if b.at == nil {
		if err := b.begin(shape); err != nil {
			return err
		}
	} else if !shape.equal(b.shape) {
		return fmt.Errorf("%w: block %d is not like the first", ErrShape, i)
	}
	for j, r := range shape.Rows {
		n := r.Bytes * int64(b.step)
		if _, err := b.w.WriteAt(rows[:n], b.at[j]+int64(i)*n); err != nil {
			return fmt.Errorf("write slot file: %w", err)
		}
		rows = rows[n:]
	}
	b.have[i] = true
	return nil
}

// begin writes all of the file but its rows.
func (b *Builder) begin(s Shape) error {
	t := uint32(len(b.tokens))
	u32 := binary.LittleEndian.AppendUint32
	var h []byte
	for _, n := range []uint32{magic, version, t + 4, 1<<32 - 1, 1, t} {
		h = u32(h, n)
	}
	for _, n := range b.tokens {
		h = u32(h, n)
	}
	h = u32(u32(u32(h, 0), 1), t)
	for i := range t {
		h = u32(u32(u32(h, i), 1), 0)
	}
	for _, n := range []uint32{0, uint32(len(s.Rows) / 2), s.X, s.Y} {
		h = u32(h, n)
	}
	at := int64(0)
	for _, r := range s.Rows {
		h = binary.LittleEndian.AppendUint64(u32(h, uint32(r.Type)), uint64(r.Bytes))
		if _, err := b.w.WriteAt(h, at); err != nil {
			return fmt.Errorf("write slot file: %w", err)
		}
		at += int64(len(h))
		b.at = append(b.at, at)
		at += r.Bytes * int64(t)
		h = h[:0]
	}
	b.shape = s
	return nil
}

// Leading is the number of blocks that have come before the first that has not. The file is whole when all have.
func (b *Builder) Leading() int {
	for i, h := range b.have {
		if !h {
			return i
		}
	}
	return len(b.have)
}
