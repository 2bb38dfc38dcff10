package s3

import (
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/front"
)

// etag is an object's tag. It has a dash, which tells clients that it is not the MD5 of the bytes.
func etag(size int64, sum uint32) string { return fmt.Sprintf("\"%08x%016x-1\"", sum, size) }

// get answers with the object or a range of it, straight from the block.
func (c *call) get() *apiError {
	b, err := c.d.o.Store.Get(c.r.Context(), c.at())
	if err != nil {
		return c.miss(err)
	}
	defer b.Release()
	data := b.Bytes()
	c.d.seen.add(c.space, c.bucket, c.key, int64(len(data)))
	c.describe(int64(len(data)), b.Sum())
	h := c.w.Header()
	status := http.StatusOK
	if want := c.r.Header.Get("Range"); want != "" {
		from, to, ok := byteRange(want, int64(len(data)))
		if !ok {
			h.Set("Content-Range", "bytes */"+strconv.Itoa(len(data)))
			return &apiError{http.StatusRequestedRangeNotSatisfiable, "InvalidRange", "the range is not within the object"}
		}
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(data)))
		data, status = data[from:to], http.StatusPartialContent
	}
	h.Set("Content-Length", strconv.Itoa(len(data)))
	_ = http.NewResponseController(c.w).SetWriteDeadline(time.Now().Add(front.Allowance(c.d.o.Stall, int64(len(data)))))
	c.w.WriteHeader(status)
	n, _ := c.w.Write(data)
	c.d.counts.Out.Add(float64(n))
	return nil
}

// describe sets the headers that say what the object is. Clients want a time: it is that of the door's opening, since not
// every store knows a better one, and GET and HEAD must say the same.
func (c *call) describe(size int64, sum uint32) {
	h := c.w.Header()
	h.Set("ETag", etag(size, sum))
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Last-Modified", c.d.since.UTC().Format(http.TimeFormat))
}

// byteRange understands one range of bytes, from-to, from- or -last; to is exclusive.
func byteRange(s string, size int64) (from, to int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes=")
	first, last, dash := strings.Cut(s, "-")
	if !ok || !dash {
		return 0, 0, false
	}
	if first == "" {
		n, err := strconv.ParseInt(last, 10, 64)
		return max(0, size-n), size, err == nil && n > 0 && size > 0
	}
	from, err := strconv.ParseInt(first, 10, 64)
	if err != nil || from < 0 || from >= size {
		return 0, 0, false
	}
	if last == "" {
		return from, size, true
	}
	to, err = strconv.ParseInt(last, 10, 64)
	return from, min(to, size-1) + 1, err == nil && to >= from
}

func (c *call) head() *apiError {
	info, err := c.d.o.Store.Has(c.r.Context(), c.at())
	if err != nil {
		return c.miss(err)
	}
	c.describe(info.Size, info.Sum)
	c.w.Header().Set("Content-Length", itoa(info.Size))
	c.w.WriteHeader(http.StatusOK)
	return nil
}

// miss turns a store's error into S3's answer: whatever its reason, the object is not to be had.
func (c *call) miss(err error) *apiError {
	if errors.Is(err, kvstore.ErrNotFound) {
		c.d.seen.remove(c.space, c.bucket, c.key)
	}
	return errNoKey
}

// receive reads the request's body into a sealed block, with one reference that is the caller's.
func (c *call) receive() (*kvstore.Block, *apiError) {
	body, sums, bad := c.body(c.d.o.MaxObject)
	if bad != nil {
		return nil, bad
	}
	b, err := c.d.o.Alloc.Alloc(int(body.size))
	if err != nil {
		return nil, errFull
	}
	if bad := body.readInto(b.Bytes(), sums); bad != nil {
		b.Release()
		return nil, bad
	}
	c.d.counts.In.Add(float64(body.size))
	return b.Seal(), nil
}

// body opens the request's body, of at most limit bytes.
func (c *call) body(limit int64) (*body, []checksum, *apiError) {
	b, bad := openBody(c.r, c.signer)
	if bad != nil {
		return nil, nil, bad
	}
	switch {
	case b.size < 0:
		return nil, nil, errNoLength
	case b.size > limit:
		return nil, nil, errTooLarge
	}
	sums, bad := checksums(c.r.Header)
	return b, sums, bad
}

// text reads a body that is no object.
func (c *call) text(limit int64) ([]byte, *apiError) {
	b, sums, bad := c.body(limit)
	if bad != nil {
		return nil, bad
	}
	text := make([]byte, b.size)
	return text, b.readInto(text, sums)
}

func (c *call) put() *apiError {
	b, bad := c.receive()
	if bad != nil {
		return bad
	}
	defer b.Release()
	if bad := c.store(b); bad != nil {
		return bad
	}
	c.w.Header().Set("ETag", etag(int64(b.Len()), b.Sum()))
	c.w.WriteHeader(http.StatusOK)
	return nil
}

// store puts the block under the call's name, on the client's condition.
func (c *call) store(b *kvstore.Block) *apiError {
	if c.r.Header.Get("If-None-Match") == "*" {
		if _, err := c.d.o.Store.Has(c.r.Context(), c.at()); err == nil {
			return &apiError{http.StatusPreconditionFailed, "PreconditionFailed", "there is such an object already"}
		}
	}
	if err := c.d.o.Store.Put(c.r.Context(), c.at(), b, kvstore.Hint{}); err != nil {
		return errFull
	}
	c.d.seen.add(c.space, c.bucket, c.key, int64(b.Len()))
	return nil
}

func (c *call) delete() *apiError {
	_ = c.d.o.Store.Delete(c.r.Context(), c.at()) // a cache that can't be reached has forgotten it as far as we know
	c.d.seen.remove(c.space, c.bucket, c.key)
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (c *call) bucketExists() *apiError {
	c.w.WriteHeader(http.StatusOK)
	return nil
}

func (c *call) location() *apiError {
	writeXML(c.w, http.StatusOK, struct {
		XMLName xml.Name `xml:"LocationConstraint"`
	}{})
	return nil
}
