package s3

import (
	"encoding/base64"
	"encoding/xml"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/penstock/penstock/kvstore"
)

// listing remembers the names that have gone through the door, since a store has no names to list. It is bounded: beyond
// the bound, names are not remembered, and a listing says that it is cut off.
type listing struct {
	limit int
	mu    sync.Mutex
	names map[place]map[string]int64 // object's name → size
	n     int
	full  bool
}

// place is one bucket of one space.
type place struct {
	space  kvstore.Space
	bucket string
}

func newListing(limit int) *listing {
	return &listing{limit: limit, names: map[place]map[string]int64{}}
}

func (l *listing) add(s kvstore.Space, bucket, key string, size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := place{s, bucket}
	m := l.names[at]
	if _, ok := m[key]; !ok {
		if l.n >= l.limit {
			l.full = true
			return
		}
		l.n++
	}
	if m == nil {
		m = map[string]int64{}
		l.names[at] = m
	}
	m[key] = size
}

func (l *listing) remove(s kvstore.Space, bucket, key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := place{s, bucket}
	if _, ok := l.names[at][key]; ok {
		delete(l.names[at], key)
		l.n--
	}
	if len(l.names[at]) == 0 {
		delete(l.names, at)
	}
}

// after are the names with a prefix that come after another, in order.
func (l *listing) after(s kvstore.Space, bucket, prefix, start string) (names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name := range l.names[place{s, bucket}] {
		if strings.HasPrefix(name, prefix) && name > start {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

const maxKeys = 1000

type listResult struct {
	XMLName               xml.Name `xml:"http://s3.amazonaws.com/doc/2006-03-01/ ListBucketResult"`
	Name                  string
	Prefix                string
	Delimiter             string `xml:",omitempty"`
	MaxKeys               int
	EncodingType          string `xml:",omitempty"`
	KeyCount              int
	IsTruncated           bool
	NextContinuationToken string `xml:",omitempty"`
	StartAfter            string `xml:",omitempty"`
	Contents              []listed
	CommonPrefixes        []commonPrefix
}

type listed struct {
	Key          string
	LastModified string
	ETag         string
	Size         int64
	StorageClass string
}

type commonPrefix struct{ Prefix string }

// list is ListObjectsV2. What is listed was asked of the store just now.
func (c *call) list() *apiError {
	q := c.query
	res := listResult{Name: c.bucket, Prefix: q.Get("prefix"), Delimiter: q.Get("delimiter"), StartAfter: q.Get("start-after"), MaxKeys: maxKeys}
	if s := q.Get("max-keys"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return errArgument("max-keys is not a number")
		}
		res.MaxKeys = min(n, maxKeys)
	}
	start := res.StartAfter
	if t := q.Get("continuation-token"); t != "" {
		b, err := base64.RawURLEncoding.DecodeString(t)
		if err != nil {
			return errArgument("the continuation-token is not one of this door's")
		}
		start = string(b)
	}
	c.fill(&res, start)
	if q.Get("encoding-type") == "url" {
		res.encode()
	}
	writeXML(c.w, http.StatusOK, res)
	return nil
}

// fill lists up to MaxKeys names and common prefixes after start.
func (c *call) fill(res *listResult, start string) {
	last := ""
	for _, name := range c.d.seen.after(c.space, c.bucket, res.Prefix, start) {
		group, grouped := "", false
		if res.Delimiter != "" {
			if i := strings.Index(name[len(res.Prefix):], res.Delimiter); i >= 0 {
				group, grouped = name[:len(res.Prefix)+i+len(res.Delimiter)], true
			}
		}
		if grouped && (strings.HasPrefix(start, group) || len(res.CommonPrefixes) > 0 && res.CommonPrefixes[len(res.CommonPrefixes)-1].Prefix == group) {
			last = name
			continue
		}
		if res.KeyCount >= res.MaxKeys {
			res.IsTruncated = res.MaxKeys > 0
			break
		}
		if grouped {
			res.CommonPrefixes = append(res.CommonPrefixes, commonPrefix{group})
		} else if !c.entry(res, name) {
			continue
		}
		res.KeyCount++
		last = name
	}
	if res.IsTruncated {
		res.NextContinuationToken = base64.RawURLEncoding.EncodeToString([]byte(last))
	}
}

// entry lists one object, if it is still there.
func (c *call) entry(res *listResult, name string) bool {
	one := *c
	one.key = name
	info, err := c.d.o.Store.Has(c.r.Context(), one.at())
	if err != nil {
		_ = one.miss(err)
		return false
	}
	res.Contents = append(res.Contents, listed{
		Key: name, Size: info.Size, ETag: etag(info.Size, info.Sum), StorageClass: "STANDARD",
		LastModified: c.d.since.UTC().Format("2006-01-02T15:04:05.000Z"),
	})
	return true
}

// encode writes names in URL form, for clients that fear what XML can't hold.
func (res *listResult) encode() {
	res.EncodingType = "url"
	for _, s := range []*string{&res.Prefix, &res.Delimiter, &res.StartAfter} {
		*s = encode(*s, "/")
	}
	for i := range res.Contents {
		res.Contents[i].Key = encode(res.Contents[i].Key, "/")
	}
	for i := range res.CommonPrefixes {
		res.CommonPrefixes[i].Prefix = encode(res.CommonPrefixes[i].Prefix, "/")
	}
}
