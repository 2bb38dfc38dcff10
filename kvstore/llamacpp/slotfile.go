// Package llamacpp cuts llama-server's slot files into blocks of KV cache and puts blocks together to slot files again, so
// that a llama.cpp without any patch has block-granular KV tiers and prefill apart from decode.
//
// A slot file ("ggsq" version 4, llama.cpp 0.7.0; found by dumping files, see Open for the layout) has one row for each token
// and layer in K and in V. RoPE bakes in a row's position and nothing else, so that the rows of tokens 64…127 are good in every
// file whose first 128 tokens are the same. llama-server itself checks nothing: bytes that were changed, and files of other
// weights of the same shape, restore without an error and answer garbage. So blocks carry their shape, the store checks their
// bytes, and their space has to hold the weights' fingerprint.
//
// What is not known is refused: another version, several streams (a server without -kvu), V in columns (flash attention off),
// cells that are not the tokens 0, 1, 2, … of one sequence (a shifted context).
//
// The package computes on bytes. It knows no server, no store and no file system.
package llamacpp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Format is the name of the KV format for kvstore.Layout.Engine.
const Format = "llamacpp/ggsq-4"

// ErrFormat means that a file is no slot file of the kind that this package knows.
var ErrFormat = errors.New("not a slot file that can be cut into blocks")

// ErrShape means that a block's rows are not those of its neighbours.
var ErrShape = errors.New("block of another shape")

const (
	magic     = 0x67677371
	version   = 4
	maxTokens = 1 << 24
	maxLayers = 1 << 12
	maxRow    = 1 << 24 // bytes of one token in one layer
)

// Row is what one token has in K or V of one layer.
type Row struct {
	Type  int32 // ggml's number: 0 f32, 1 f16, 8 q8_0
	Bytes int64
}

// Shape is all that a file says about its rows: K of all layers, then V of all layers.
type Shape struct {
	Rows []Row
	X, Y uint32 // stand before the rows; their meaning is unknown, they go with the type
}

// equal says whether rows of the one can stand beside rows of the other.
func (s Shape) equal(o Shape) bool {
	if len(s.Rows) != len(o.Rows) || s.X != o.X || s.Y != o.Y {
		return false
	}
	for i := range s.Rows {
		if s.Rows[i] != o.Rows[i] {
			return false
		}
	}
	return true
}

// PerToken is the number of bytes of KV that one token has.
func (s Shape) PerToken() (n int64) {
	for _, r := range s.Rows {
		n += r.Bytes
	}
	return n
}

// File is a slot file that has been looked through.
type File struct {
	Tokens []uint32 // whose KV it holds
	Shape  Shape
	r      io.ReaderAt
	at     []int64 // where the rows of each Shape.Rows begin
}

// Open reads all of a file but its rows. The layout, little endian:
//
//	u32 magic, version, n;  n × u32: 0xffffffff, 1, T, T tokens, 0
//	u32 streams = 1
//	u32 cells = T;  cells × { u32 position, sequences = 1, sequence }
//	u32 transposed = 0, layers, x, y
//	layers × K { i32 type, u64 bytes, cells rows };  layers × V the same
//
// Errors wrap ErrFormat, or are the reader's.
func Open(r io.ReaderAt, size int64) (*File, error) {
	s := &scanner{r: r, size: size}
	f := &File{r: r}
	if m, v := s.u32(), s.u32(); s.err == nil && (m != magic || v != version) {
		return nil, fmt.Errorf("%w: magic %#x version %d, known is %#x version %d", ErrFormat, m, v, magic, version)
	}
	f.readTokens(s)
	if n := s.u32(); s.err == nil && n != 1 {
		return nil, fmt.Errorf("%w: it has %d streams; llama-server needs -kvu", ErrFormat, n)
	}
	cells := f.readCells(s)
	if t := s.u32(); s.err == nil && t != 0 {
		return nil, fmt.Errorf("%w: its V is in columns; llama-server needs flash attention", ErrFormat)
	}
	f.findRows(s, cells)
	if s.err == nil && s.at != size {
		s.fail("%d bytes follow its end", size-s.at)
	}
	if s.err != nil {
		return nil, s.err
	}
	return f, nil
}

func (f *File) readTokens(s *scanner) {
	n := int64(s.u32())
	head := [3]uint32{s.u32(), s.u32(), s.u32()}
	if s.err == nil && (n < 4 || n > maxTokens || head != [3]uint32{1<<32 - 1, 1, uint32(n - 4)}) {
		s.fail("its list of tokens begins with %d of %d", head, n)
	}
	b := s.take((n - 3) * 4)
	if s.err != nil {
		return
	}
	f.Tokens = make([]uint32, n-4)
	for i := range f.Tokens {
		f.Tokens[i] = binary.LittleEndian.Uint32(b[4*i:])
	}
	if end := binary.LittleEndian.Uint32(b[len(b)-4:]); end != 0 {
		s.fail("its list of tokens ends with %d", end)
	}
}

// readCells makes sure that the rows are the tokens' in order.
func (f *File) readCells(s *scanner) (cells int64) {
	cells = int64(s.u32())
	if s.err == nil && cells != int64(len(f.Tokens)) {
		s.fail("it has %d cells for %d tokens", cells, len(f.Tokens))
	}
	b := s.take(cells * 12)
	if s.err != nil {
		return 0
	}
	first := uint32(0)
	if cells > 0 {
		first = binary.LittleEndian.Uint32(b[8:])
	}
	for i := range int(cells) {
		c := b[12*i:]
		if pos, n, seq := binary.LittleEndian.Uint32(c), binary.LittleEndian.Uint32(c[4:]), binary.LittleEndian.Uint32(c[8:]); pos != uint32(i) || n != 1 || seq != first {
			s.fail("cell %d is position %d of %d sequences", i, pos, n)
			return 0
		}
	}
	return cells
}

func (f *File) findRows(s *scanner, cells int64) {
	layers := s.u32()
	f.Shape.X, f.Shape.Y = s.u32(), s.u32()
	if s.err == nil && (layers == 0 || layers > maxLayers) {
		s.fail("it has %d layers", layers)
	}
	for range 2 * int(layers) {
		if s.err != nil {
			return
		}
		row := Row{Type: int32(s.u32()), Bytes: int64(s.u64())}
		if s.err == nil && (row.Bytes <= 0 || row.Bytes > maxRow) {
			s.fail("a row has %d bytes", row.Bytes)
		}
		f.Shape.Rows = append(f.Shape.Rows, row)
		f.at = append(f.at, s.at)
		s.skip(row.Bytes * cells)
	}
}

// scanner reads numbers one after the other and remembers the first error.
type scanner struct {
	r        io.ReaderAt
	at, size int64
	err      error
}

func (s *scanner) fail(format string, a ...any) {
	if s.err == nil {
		s.err = fmt.Errorf("%w: "+format, append([]any{ErrFormat}, a...)...)
	}
}

func (s *scanner) skip(n int64) {
	if s.err == nil && (n < 0 || n > s.size-s.at) {
		s.fail("it ends too early")
	}
	if s.err == nil {
		s.at += n
	}
}

func (s *scanner) take(n int64) []byte {
	from := s.at
	if s.skip(n); s.err != nil {
		return nil
	}
	b := make([]byte, n)
	if m, err := s.r.ReadAt(b, from); int64(m) < n {
		s.err = fmt.Errorf("read slot file: %w", err)
	}
	return b
}

func (s *scanner) u32() uint32 {
	if b := s.take(4); s.err == nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (s *scanner) u64() uint64 {
	if b := s.take(8); s.err == nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}
