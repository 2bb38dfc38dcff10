package disk

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
)

// A sealed segment ends in a footer, which has a line for each record that lived at that time, and a trailer of one page,
// which says where the footer is.

// placed is a record and where it begins in its segment.
type placed struct {
	record
	at int64
}

func appendLine(b []byte, r *record, at int64) []byte {
	b = r.appendBody(b)
	b = binary.LittleEndian.AppendUint32(b, r.ordinal)
	return binary.LittleEndian.AppendUint32(b, uint32(at/grain))
}

func parseLine(b []byte) (p placed, err error) {
	err = p.parseBody(b[:bodySize])
	p.ordinal = binary.LittleEndian.Uint32(b[bodySize:])
	p.at = int64(binary.LittleEndian.Uint32(b[bodySize+4:])) * grain
	return p, err
}

// footer is what is written at the end of a segment: lines, padding, trailer. It begins at an offset.
func (s *seal) footer(lines []byte, at int64) []byte {
	n := len(lines)
	if s.aead != nil {
		n += tagSize
	}
	b := aligned(int(roundUp(int64(n), page)) + page)
	trailer := b[len(b)-page:]
	le := binary.LittleEndian
	copy(trailer, trailerMagic)
	le.PutUint64(trailer[8:], uint64(at))
	le.PutUint64(trailer[16:], uint64(n))
	if s.aead != nil {
		_, _ = rand.Read(trailer[24:36]) // a footer may be written again at the same place
		s.aead.Seal(b[:0], trailer[24:36], lines, nil)
	} else {
		copy(b, lines)
	}
	mac := s.mac(at, trailer[:40], b[:n])
	copy(trailer[40:56], mac[:])
	return b
}

// parseTrailer returns where the footer lies, in a file of a size.
func parseTrailer(trailer []byte, size int64) (at int64, n int, err error) {
	le := binary.LittleEndian
	at, length := int64(le.Uint64(trailer[8:])), int64(le.Uint64(trailer[16:]))
	if string(trailer[:8]) != trailerMagic || at < page || at%page != 0 || at > size || length < 0 || length > maxFooterBytes+tagSize ||
		at+roundUp(length, page)+page != size {
		return 0, 0, fmt.Errorf("no trailer: %w", errRecord)
	}
	return at, int(length), nil
}

// parseFooter checks a footer against its trailer and returns what its lines say.
func (s *seal) parseFooter(footer, trailer []byte, at int64) ([]placed, error) {
	if mac := s.mac(at, trailer[:40], footer); string(trailer[40:56]) != string(mac[:16]) {
		return nil, fmt.Errorf("footer: %w", errRecord)
	}
	if s.aead != nil {
		var err error
		if footer, err = s.aead.Open(footer[:0], trailer[24:36], footer, nil); err != nil {
			return nil, fmt.Errorf("footer: %w", errRecord)
		}
	}
	if len(footer)%lineSize != 0 {
		return nil, fmt.Errorf("footer of %d bytes: %w", len(footer), errRecord)
	}
	found := make([]placed, 0, len(footer)/lineSize)
	for ; len(footer) > 0; footer = footer[lineSize:] {
		p, err := parseLine(footer)
		if err != nil || p.at+p.end(s.aead != nil) > at {
			return nil, fmt.Errorf("line of the footer: %w", errRecord)
		}
		found = append(found, p)
	}
	return found, nil
}
