package s3

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// The forms of a body, as X-Amz-Content-Sha256 names them. Anything else there is the SHA-256 of the body.
const (
	unsignedPayload   = "UNSIGNED-PAYLOAD"
	streamingPrefix   = "STREAMING-"
	streamingSigned   = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	streamingTrailer  = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
	streamingUnsigned = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
)

const (
	maxChunkHead = 4 << 10
	maxTrailers  = 16
)

// body is how a request's bytes are read and checked.
type body struct {
	r    io.Reader
	size int64 // of the object; -1 = not said
	// sum is the SHA-256 that all bytes must have, in hex; empty: not said.
	sum      string
	trailers func() (http.Header, *apiError) // after the last byte; nil = none
	expect   string                          // names the trailer that must come
}

// openBody tells the form of the body. The signer is nil for requests that need no signature.
func openBody(r *http.Request, s *signer) (*body, *apiError) {
	form := r.Header.Get("X-Amz-Content-Sha256")
	b := &body{r: r.Body, size: r.ContentLength}
	if !strings.HasPrefix(form, streamingPrefix) {
		if form != "" && form != unsignedPayload {
			b.sum = form
		}
		return b, nil
	}
	c := &chunks{in: bufio.NewReaderSize(r.Body, 64<<10)}
	switch form {
	case streamingSigned:
		c.signer = s
	case streamingTrailer:
		c.signer, c.trailing = s, true
	case streamingUnsigned:
		c.trailing = true
	default:
		return nil, errArgument("X-Amz-Content-Sha256 names a form of body that is not known here: " + form)
	}
	if form != streamingUnsigned && s == nil {
		c.signer = nil // an anonymous request has no key to check with
	}
	size, err := strconv.ParseInt(r.Header.Get("X-Amz-Decoded-Content-Length"), 10, 64)
	if err != nil || size < 0 {
		return nil, errArgument("an aws-chunked body needs X-Amz-Decoded-Content-Length")
	}
	return &body{r: c, size: size, trailers: c.trailers, expect: strings.ToLower(r.Header.Get("X-Amz-Trailer"))}, nil
}

// readInto fills dst, which is as long as the object, and makes sure that the body ends there and is what it says to be.
func (b *body) readInto(dst []byte, sums []checksum) *apiError {
	if _, err := io.ReadFull(b.r, dst); err != nil {
		return bodyError(err)
	}
	if n, err := b.r.Read(make([]byte, 1)); n > 0 || err == nil {
		return &apiError{http.StatusBadRequest, "IncompleteBody", "the body is longer than its length says"}
	} else if !errors.Is(err, io.EOF) {
		return bodyError(err)
	}
	if b.sum != "" {
		if got := sha256.Sum256(dst); subtle.ConstantTimeCompare([]byte(hex.EncodeToString(got[:])), []byte(strings.ToLower(b.sum))) != 1 {
			return &apiError{http.StatusBadRequest, "XAmzContentSHA256Mismatch", "the body does not have the SHA-256 that its head says"}
		}
	}
	if b.trailers != nil {
		t, err := b.trailers()
		if err != nil {
			return err
		}
		if b.expect != "" && t.Get(b.expect) == "" {
			return errArgument("the trailer " + b.expect + " is missing")
		}
		more, err := checksums(t)
		if err != nil {
			return err
		}
		sums = append(sums, more...)
	}
	for _, s := range sums {
		if err := s.check(dst); err != nil {
			return err
		}
	}
	return nil
}

func bodyError(err error) *apiError {
	var api *apiError
	if errors.As(err, &api) {
		return api
	}
	return &apiError{http.StatusBadRequest, "IncompleteBody", "the body ended before its length was reached"}
}

// chunks decodes a body in aws-chunked form: chunks of "size[;chunk-signature=…]\r\n bytes \r\n", a last one of size 0, and
// trailers.
type chunks struct {
	in       *bufio.Reader
	signer   *signer // nil: chunks are not signed
	trailing bool    // trailers may come

	left  int64 // of the chunk at hand
	ended bool
	sig   string
	hash  hash.Hash
	err   error
}

// Read is io.Reader over the decoded bytes.
func (c *chunks) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.read(p)
	if err != nil {
		c.err = err
	}
	return n, err
}

func (c *chunks) read(p []byte) (int, error) {
	if c.ended {
		return 0, io.EOF
	}
	if c.left == 0 {
		if err := c.begin(); err != nil {
			return 0, err
		}
		if c.left == 0 {
			c.ended = true
			if err := c.end(); err != nil {
				return 0, err
			}
			return 0, io.EOF
		}
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := c.in.Read(p[:min(int64(len(p)), c.left)])
	if c.signer != nil {
		_, _ = c.hash.Write(p[:n])
	}
	c.left -= int64(n)
	if errors.Is(err, io.EOF) {
		return n, io.ErrUnexpectedEOF
	}
	if err == nil && c.left == 0 {
		if err = c.lineEnd(); err == nil {
			err = c.end()
		}
	}
	return n, err
}

// begin reads a chunk's head.
func (c *chunks) begin() error {
	l, err := c.line()
	if err != nil {
		return err
	}
	size, ext, _ := strings.Cut(l, ";")
	c.left, err = strconv.ParseInt(strings.TrimSpace(size), 16, 64)
	if err != nil || c.left < 0 {
		return errArgument("an aws-chunked body has a chunk without a size")
	}
	c.sig, _ = strings.CutPrefix(strings.TrimSpace(ext), "chunk-signature=")
	if c.signer != nil {
		c.hash = sha256.New()
	}
	return nil
}

// end checks a chunk's signature.
func (c *chunks) end() error {
	if c.signer == nil {
		return nil
	}
	want := c.signer.sign(algorithm+"-PAYLOAD", c.signer.previous, emptySHA256, hex.EncodeToString(c.hash.Sum(nil)))
	if subtle.ConstantTimeCompare([]byte(want), []byte(c.sig)) != 1 {
		return &apiError{http.StatusForbidden, "SignatureDoesNotMatch", "a chunk of the body does not have the signature that it should have"}
	}
	c.signer.previous = want
	return nil
}

func (c *chunks) lineEnd() error {
	var end [2]byte
	if _, err := io.ReadFull(c.in, end[:]); err != nil {
		return io.ErrUnexpectedEOF // io.EOF would say that all chunks have come
	}
	if string(end[:]) != "\r\n" {
		return errArgument("an aws-chunked body has a chunk that is longer than it says")
	}
	return nil
}

func (c *chunks) line() (string, error) {
	l, err := c.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) || len(l) > maxChunkHead {
		return "", errArgument("an aws-chunked body has a line that is too long")
	}
	if errors.Is(err, io.EOF) {
		return "", io.ErrUnexpectedEOF
	}
	if err != nil {
		return "", err
	}
	return string(bytes.TrimRight(l, "\r\n")), nil
}

// trailers reads what follows the last chunk and checks its signature.
func (c *chunks) trailers() (http.Header, *apiError) {
	h := http.Header{}
	if !c.trailing {
		return h, nil
	}
	var signed strings.Builder
	signature := ""
	for range maxTrailers {
		l, err := c.line()
		if err != nil || l == "" && (c.signer == nil || signature != "") {
			break
		}
		if l == "" { // MinIO's client has an empty line before the signature
			continue
		}
		name, value, ok := strings.Cut(l, ":")
		if !ok {
			return nil, errArgument("a trailer of the body has no name")
		}
		name, value = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)
		if name == "x-amz-trailer-signature" {
			signature = value
			continue
		}
		h.Add(name, value)
		signed.WriteString(name + ":" + value + "\n")
	}
	if c.signer == nil {
		return h, nil
	}
	sum := sha256.Sum256([]byte(signed.String()))
	want := c.signer.sign(algorithm+"-TRAILER", c.signer.previous, hex.EncodeToString(sum[:]))
	if subtle.ConstantTimeCompare([]byte(want), []byte(signature)) != 1 {
		return nil, &apiError{http.StatusForbidden, "SignatureDoesNotMatch", "the trailers of the body do not have the signature that they should have"}
	}
	return h, nil
}
