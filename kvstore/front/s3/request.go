package s3

import (
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/front"
)

// S3's own bounds of names, in bytes. The listing remembers names.
const (
	maxBucket = 255
	maxName   = 1024
)

// call is one request after its head has been understood.
type call struct {
	d           *Door
	w           http.ResponseWriter
	r           *http.Request
	bucket, key string
	query       url.Values
	space       kvstore.Space
	signer      *signer // nil = anonymous
}

// ServeHTTP answers one request. Paths are never cleaned: names are what the client says they are.
func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	deadlines := http.NewResponseController(w)
	if r.ContentLength != 0 { // without a body net/http waits for the client's end already: it would take the deadline for that
		_ = deadlines.SetReadDeadline(time.Now().Add(front.Allowance(d.o.Stall, max(r.ContentLength, 0))))
	}
	_ = deadlines.SetWriteDeadline(time.Now().Add(2 * front.Allowance(d.o.Stall, max(r.ContentLength, 0))))
	c := &call{d: d, w: w, r: r}
	if err := c.understand(); err != nil {
		if err.status == http.StatusForbidden {
			d.counts.Refused("login")
		} else {
			d.counts.Refused("protocol")
		}
		w.Header().Set("Connection", "close") // what is left of its body is not read
		writeError(w, r, err)
		return
	}
	command, do := c.route()
	if err := do(c); err != nil {
		outcome := front.Error
		switch err {
		case errNoKey:
			outcome = front.Miss
		case errFull:
			outcome = front.Dropped
		}
		d.counts.Command(command, outcome)
		writeError(w, r, err)
		return
	}
	d.counts.Command(command, front.OK)
}

// route tells what is asked by method, name and query.
func (c *call) route() (string, func(*call) *apiError) {
	if c.key == "" {
		switch {
		case c.r.Method == http.MethodHead, c.r.Method == http.MethodPut && c.bucket != "":
			return "bucket", (*call).bucketExists
		case c.r.Method == http.MethodGet && c.bucket != "" && c.query.Has("location"):
			return "bucket", (*call).location
		case c.r.Method == http.MethodGet && c.bucket != "" && c.query.Get("list-type") == "2":
			return "list", (*call).list
		}
		return "other", (*call).notHere
	}
	upload := c.query.Has("uploadId")
	switch {
	case c.r.Header.Get("X-Amz-Copy-Source") != "":
		return "other", (*call).notHere
	case c.r.Method == http.MethodGet && len(c.query) == 0, c.r.Method == http.MethodGet && c.query.Has("x-id"):
		return "get", (*call).get
	case c.r.Method == http.MethodHead:
		return "head", (*call).head
	case c.r.Method == http.MethodPut && upload && c.query.Has("partNumber"):
		return "part", (*call).putPart
	case c.r.Method == http.MethodPut && !upload:
		return "put", (*call).put
	case c.r.Method == http.MethodDelete && upload:
		return "upload", (*call).abortUpload
	case c.r.Method == http.MethodDelete:
		return "delete", (*call).delete
	case c.r.Method == http.MethodPost && c.query.Has("uploads"):
		return "upload", (*call).createUpload
	case c.r.Method == http.MethodPost && upload:
		return "upload", (*call).completeUpload
	}
	return "other", (*call).notHere
}

func (c *call) notHere() *apiError { return errNotHere }

// understand finds the name, and who asks.
func (c *call) understand() *apiError {
	uri := requestURI(c.r)
	path, query, _ := strings.Cut(uri, "?")
	var err error
	if c.query, err = url.ParseQuery(query); err != nil {
		return errArgument("the query can't be read")
	}
	if !strings.HasPrefix(path, "/") {
		return errArgument("the path does not begin with a slash")
	}
	if path, err = url.PathUnescape(path[1:]); err != nil {
		return errArgument("the path can't be read")
	}
	if bucket := virtualBucket(c.r.Host, c.d.o.Domain); bucket != "" {
		c.bucket, c.key = bucket, path
	} else {
		c.bucket, c.key, _ = strings.Cut(path, "/")
	}
	if len(c.bucket) > maxBucket || len(c.key) > maxName {
		return errNameTooLong
	}
	return c.identify()
}

// identify checks the signature and finds the space.
func (c *call) identify() *apiError {
	h := c.r.Header.Get("Authorization")
	if h == "" {
		if c.d.o.Anonymous == nil {
			return errAccess("the request is not signed")
		}
		c.space = *c.d.o.Anonymous
		return nil
	}
	a, ok := parseAuthorization(h)
	if !ok {
		return errAccess("the Authorization is not " + algorithm + " as S3 clients send it")
	}
	var secret string
	if c.d.o.Credential != nil {
		secret, c.space, ok = c.d.o.Credential(a.accessKey)
	}
	if c.d.o.Credential == nil || !ok {
		return &apiError{http.StatusForbidden, "InvalidAccessKeyId", "there is no such access key"}
	}
	payload := c.r.Header.Get("X-Amz-Content-Sha256")
	if payload == "" {
		return errAccess("the request has no X-Amz-Content-Sha256")
	}
	s, bad := verify(c.r, a, secret, payload, time.Now())
	c.signer = s
	return bad
}

// requestURI is the path and query as they were sent.
func requestURI(r *http.Request) string {
	uri := r.RequestURI
	if i := strings.Index(uri, "://"); i > 0 && !strings.HasPrefix(uri, "/") { // a proxy's form
		uri = uri[i+3:]
		uri = uri[max(0, strings.IndexByte(uri, '/')):]
	}
	return uri
}

// virtualBucket is the bucket of a virtual-hosted request, such as bucket.localhost:9000; empty for the path style.
func virtualBucket(host, domain string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	bucket, ok := strings.CutSuffix(strings.ToLower(host), "."+domain)
	if !ok {
		return ""
	}
	return bucket
}

// at is the object's key in the store.
func (c *call) at() kvstore.Key {
	return kvstore.Key{Space: c.space, Name: kvstore.OpaqueName("s3\x00" + c.bucket + "\x00" + c.key)}
}
