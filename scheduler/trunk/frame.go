package trunk

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A frame is a head of headSize bytes (kind, stream, length, big endian) and so many bytes.
const (
	headSize = 1 + 4 + 3
	maxData  = 16 << 10 // of one frame
)

// kind is what a frame says about its stream.
type kind byte

const (
	opens   kind = 1 // the dialing side begins a stream; numbers grow
	data    kind = 2
	credits kind = 3 // so many more bytes may be sent; 4 bytes
	closes  kind = 4 // the sender sends nothing more and reads nothing more
)

// errFrame means that the peer does not keep to the protocol.
var errFrame = errors.New("the peer sent a frame that makes no sense")

func appendHead(b []byte, k kind, stream uint32, length int) []byte {
	b = binary.BigEndian.AppendUint32(append(b, byte(k)), stream)
	return append(b, byte(length>>16), byte(length>>8), byte(length))
}

func appendCredit(b []byte, stream uint32, n int) []byte {
	return binary.BigEndian.AppendUint32(appendHead(b, credits, stream, 4), uint32(n))
}

// frame is one that was read; its payload points into the buffer that it was found in.
type frame struct {
	kind    kind
	stream  uint32
	payload []byte
}

// next takes the first frame off b. ok is false until it is there whole.
func next(b []byte) (f frame, rest []byte, ok bool, err error) {
	if len(b) < headSize {
		return f, b, false, nil
	}
	length := int(b[5])<<16 | int(b[6])<<8 | int(b[7])
	f = frame{kind: kind(b[0]), stream: binary.BigEndian.Uint32(b[1:])}
	fits := length == 0
	switch f.kind {
	case data:
		fits = length > 0 && length <= maxData
	case credits:
		fits = length == 4
	case opens, closes:
	default:
		fits = false
	}
	switch {
	case !fits:
		return f, b, false, fmt.Errorf("%w: kind %d, %d bytes", errFrame, f.kind, length)
	case len(b) < headSize+length:
		return f, b, false, nil
	}
	f.payload = b[headSize : headSize+length]
	return f, b[headSize+length:], true, nil
}
