package s3

import (
	"crypto/rand"
	"encoding/xml"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/kvstore"
)

const (
	maxUploads   = 1024 // under way at once
	userUploads  = 256  // of them one user's
	maxParts     = 10_000
	uploadExpiry = time.Hour // since its last part
	maxComplete  = 4 << 20   // bytes of a CompleteMultipartUpload
)

// uploads are the multipart uploads that are under way. Their parts are blocks; completing one copies them into a single
// block, which is what an object is. A user's parts, which are memory that can't be evicted, are bounded, so that uploads
// that one begins and never ends cost others nothing.
type uploads struct {
	limit     int64 // bytes of one upload
	userLimit int64 // bytes of all uploads of one user
	mu        sync.Mutex
	all       map[string]*upload
	users     map[kvstore.Space]*using
}

// using is what one user has under way.
type using struct {
	uploads int
	bytes   int64
}

type upload struct {
	key   kvstore.Key
	parts map[int]*kvstore.Block
	size  int64
	used  time.Time
}

func newUploads(limit, userLimit int64) *uploads {
	return &uploads{limit: limit, userLimit: userLimit, all: map[string]*upload{}, users: map[kvstore.Space]*using{}}
}

// begin makes room for an upload and names it.
func (u *uploads) begin(key kvstore.Key, now time.Time) (string, *apiError) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, up := range u.all {
		if now.Sub(up.used) > uploadExpiry {
			u.drop(id)
		}
	}
	user := u.users[key.Space]
	if user == nil {
		user = &using{}
	}
	if len(u.all) >= maxUploads || user.uploads >= userUploads {
		return "", errFull
	}
	id := rand.Text()
	u.all[id] = &upload{key: key, parts: map[int]*kvstore.Block{}, used: now}
	user.uploads++
	u.users[key.Space] = user
	return id, nil
}

// room says whether a part of so many bytes may come. It is asked before the part is read.
func (u *uploads) room(id string, key kvstore.Key, number int, n int64) *apiError {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, _, bad := u.fit(id, key, number, n)
	return bad
}

// fit finds the upload, and by how much the part makes it larger. The caller holds the lock.
func (u *uploads) fit(id string, key kvstore.Key, number int, n int64) (up *upload, grown int64, bad *apiError) {
	up = u.all[id]
	if up == nil || up.key != key {
		return nil, 0, errNoUpload
	}
	if old := up.parts[number]; old != nil {
		n -= int64(old.Len())
	}
	switch {
	case up.size+n > u.limit:
		return nil, 0, errTooLarge
	case u.users[key.Space].bytes+n > u.userLimit:
		return nil, 0, errFull
	}
	return up, n, nil
}

// add takes a reference to a part, in place of an earlier one of the same number.
func (u *uploads) add(id string, key kvstore.Key, number int, b *kvstore.Block, now time.Time) *apiError {
	u.mu.Lock()
	defer u.mu.Unlock()
	up, grown, bad := u.fit(id, key, number, int64(b.Len()))
	if bad != nil {
		return bad
	}
	if old := up.parts[number]; old != nil {
		old.Release()
	}
	up.parts[number], up.size, up.used = b.Retain(), up.size+grown, now
	u.users[key.Space].bytes += grown
	return nil
}

// take ends an upload and gives its parts to the caller, who releases them; nil: there is none.
func (u *uploads) take(id string, key kvstore.Key) *upload {
	u.mu.Lock()
	defer u.mu.Unlock()
	up := u.all[id]
	if up == nil || up.key != key {
		return nil
	}
	u.forget(id)
	return up
}

// forget takes an upload off the books. The caller holds the lock.
func (u *uploads) forget(id string) {
	up := u.all[id]
	delete(u.all, id)
	user := u.users[up.key.Space]
	user.uploads--
	if user.bytes -= up.size; user.uploads == 0 {
		delete(u.users, up.key.Space)
	}
}

func (u *uploads) drop(id string) {
	u.all[id].release()
	u.forget(id)
}

func (u *uploads) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for id := range u.all {
		u.drop(id)
	}
}

func (up *upload) release() {
	for _, b := range up.parts {
		b.Release()
	}
}

func (c *call) createUpload() *apiError {
	id, bad := c.d.uploads.begin(c.at(), time.Now())
	if bad != nil {
		return bad
	}
	writeXML(c.w, http.StatusOK, struct {
		XMLName               xml.Name `xml:"InitiateMultipartUploadResult"`
		Bucket, Key, UploadId string   //nolint:revive,staticcheck // S3's spelling
	}{Bucket: c.bucket, Key: c.key, UploadId: id})
	return nil
}

func (c *call) putPart() *apiError {
	n, err := strconv.Atoi(c.query.Get("partNumber"))
	if err != nil || n < 1 || n > maxParts {
		return errArgument("a part's number is 1 to 10000")
	}
	if bad := c.d.uploads.room(c.query.Get("uploadId"), c.at(), n, max(c.r.ContentLength, 0)); bad != nil {
		c.w.Header().Set("Connection", "close") // the part is not read
		return bad
	}
	b, bad := c.receive()
	if bad != nil {
		return bad
	}
	defer b.Release()
	if bad := c.d.uploads.add(c.query.Get("uploadId"), c.at(), n, b, time.Now()); bad != nil {
		return bad
	}
	c.w.Header().Set("ETag", etag(int64(b.Len()), b.Sum()))
	c.w.WriteHeader(http.StatusOK)
	return nil
}

func (c *call) abortUpload() *apiError {
	up := c.d.uploads.take(c.query.Get("uploadId"), c.at())
	if up == nil {
		return errNoUpload
	}
	up.release()
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// completion is what a client says that its upload is made of.
type completion struct {
	Part []struct {
		PartNumber int
		ETag       string
	}
}

func (c *call) completeUpload() *apiError {
	text, bad := c.text(maxComplete)
	if bad != nil {
		return bad
	}
	var want completion
	if err := xml.Unmarshal(text, &want); err != nil {
		return &apiError{http.StatusBadRequest, "MalformedXML", "the list of parts can't be read"}
	}
	up := c.d.uploads.take(c.query.Get("uploadId"), c.at())
	if up == nil {
		return errNoUpload
	}
	defer up.release()
	b, bad := c.join(up, want)
	if bad != nil {
		return bad
	}
	defer b.Release()
	if bad := c.store(b); bad != nil {
		return bad
	}
	writeXML(c.w, http.StatusOK, struct {
		XMLName           xml.Name `xml:"CompleteMultipartUploadResult"`
		Bucket, Key, ETag string
	}{Bucket: c.bucket, Key: c.key, ETag: etag(int64(b.Len()), b.Sum())})
	return nil
}

// join copies the parts that the client names, which must be all of them, into one block.
func (c *call) join(up *upload, want completion) (*kvstore.Block, *apiError) {
	numbers := slices.Sorted(maps.Keys(up.parts))
	if len(want.Part) != len(numbers) || len(numbers) == 0 {
		return nil, errPart
	}
	for i, p := range want.Part {
		have := up.parts[p.PartNumber]
		if p.PartNumber != numbers[i] || strings.Trim(p.ETag, `"`) != strings.Trim(etag(int64(have.Len()), have.Sum()), `"`) {
			return nil, errPart
		}
	}
	b, err := c.d.o.Alloc.Alloc(int(up.size))
	if err != nil {
		return nil, errFull
	}
	at := b.Bytes()
	for _, n := range numbers {
		at = at[copy(at, up.parts[n].Bytes()):]
	}
	return b.Seal(), nil
}

var errPart = &apiError{http.StatusBadRequest, "InvalidPart", "the parts are not those that were sent, in order"}
