package s3

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Signature Version 4, as in "Signing and authenticating REST requests" of the Amazon S3 API reference.

const (
	algorithm   = "AWS4-HMAC-SHA256"
	stamp       = "20060102T150405Z"
	maxSkew     = 15 * time.Minute
	emptySHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// authorization is what a request's Authorization header says.
type authorization struct {
	accessKey           string
	date, region        string // of the credential's scope
	service, terminator string
	signed              []string // names of headers, lower case
	signature           string
}

// parseAuthorization reads the header; false for any other form than the one that clients send.
func parseAuthorization(h string) (a authorization, ok bool) {
	rest, ok := strings.CutPrefix(h, algorithm)
	if !ok {
		return a, false
	}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch name {
		case "Credential":
			f := strings.Split(value, "/")
			if len(f) < 5 {
				return a, false
			}
			n := len(f) - 4 // an access key may hold a slash
			a.accessKey = strings.Join(f[:n], "/")
			a.date, a.region, a.service, a.terminator = f[n], f[n+1], f[n+2], f[n+3]
		case "SignedHeaders":
			a.signed = strings.Split(value, ";")
		case "Signature":
			a.signature = value
		}
	}
	return a, a.accessKey != "" && a.signature != "" && a.service == "s3" && a.terminator == "aws4_request" &&
		slices.Contains(a.signed, "host")
}

func (a authorization) scope() string {
	return strings.Join([]string{a.date, a.region, a.service, a.terminator}, "/")
}

// key is the signing key of the scope.
func (a authorization) key(secret string) []byte {
	k := mac([]byte("AWS4"+secret), a.date)
	for _, s := range []string{a.region, a.service, a.terminator} {
		k = mac(k, s)
	}
	return k
}

// signer has what the signatures of a body's chunks are made with, after the head's has been found right.
type signer struct {
	key         []byte
	time, scope string
	previous    string // signature that the next one follows
}

// verify checks the head's signature and that it was made just now.
func verify(r *http.Request, a authorization, secret, payload string, now time.Time) (*signer, *apiError) {
	at := r.Header.Get("X-Amz-Date")
	t, err := time.Parse(stamp, at)
	if err != nil || !strings.HasPrefix(at, a.date) {
		return nil, errAccess("the request has no valid X-Amz-Date")
	}
	if d := now.Sub(t); d > maxSkew || d < -maxSkew {
		return nil, &apiError{http.StatusForbidden, "RequestTimeTooSkewed", "the clocks of client and server differ by more than 15 minutes"}
	}
	for name := range r.Header { // what steers the request must be signed
		if l := strings.ToLower(name); strings.HasPrefix(l, "x-amz-") && !slices.Contains(a.signed, l) {
			return nil, errAccess("the header " + name + " is not signed")
		}
	}
	request, ok := canonicalRequest(r, a.signed, payload)
	if !ok {
		return nil, errAccess("the request's path or query is not encoded as it should be")
	}
	s := &signer{key: a.key(secret), time: at, scope: a.scope()}
	want := s.sign(algorithm, digest(request))
	if subtle.ConstantTimeCompare([]byte(want), []byte(a.signature)) != 1 {
		return nil, &apiError{http.StatusForbidden, "SignatureDoesNotMatch", "the signature is not that of this request with this key's secret"}
	}
	s.previous = want
	return s, nil
}

// sign is the signature of a string to sign: the kind of it, the time, the scope, and more lines.
func (s *signer) sign(kind string, lines ...string) string {
	return hex.EncodeToString(mac(s.key, strings.Join(append([]string{kind, s.time, s.scope}, lines...), "\n")))
}

func canonicalRequest(r *http.Request, signed []string, payload string) (string, bool) {
	var b strings.Builder
	path, query, _ := strings.Cut(requestURI(r), "?")
	path, err := url.PathUnescape(path)
	if err != nil {
		return "", false
	}
	canonicalQuery, ok := canonicalQuery(query)
	if !ok {
		return "", false
	}
	b.WriteString(r.Method + "\n" + encode(path, "/") + "\n" + canonicalQuery + "\n")
	for _, name := range signed {
		b.WriteString(name + ":" + headerValue(r, name) + "\n")
	}
	b.WriteString("\n" + strings.Join(signed, ";") + "\n" + payload)
	return b.String(), true
}

func headerValue(r *http.Request, name string) string {
	switch name {
	case "host":
		return r.Host
	case "content-length": // net/http may take these out of the header
		return itoa(max(r.ContentLength, 0))
	case "transfer-encoding":
		return strings.Join(r.TransferEncoding, ",")
	}
	values := slices.Clone(r.Header.Values(name))
	for i, v := range values {
		values[i] = strings.Join(strings.Fields(v), " ")
	}
	return strings.Join(values, ",")
}

func canonicalQuery(query string) (string, bool) {
	var pairs []string
	for part := range strings.SplitSeq(query, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		n, err1 := url.PathUnescape(name) // a plus is a plus here
		v, err2 := url.PathUnescape(value)
		if err1 != nil || err2 != nil {
			return "", false
		}
		pairs = append(pairs, encode(n, "")+"="+encode(v, ""))
	}
	slices.Sort(pairs)
	return strings.Join(pairs, "&"), true
}

// encode escapes all bytes but the unreserved ones and those in keep, as Signature Version 4 wants it.
func encode(s, keep string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("-_.~"+keep, c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.Write([]byte{'%', digits[c>>4], digits[c&15]})
	}
	return b.String()
}

func mac(key []byte, s string) []byte {
	h := hmac.New(sha256.New, key)
	_, _ = h.Write([]byte(s))
	return h.Sum(nil)
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
