package s3

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// The examples of the Amazon S3 API reference: "Examples: Signature Calculations in AWS Signature Version 4" and "Signature
// Calculations for the Authorization Header: Transferring Payload in Multiple Chunks".
const (
	exampleSecret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY" //nolint:gosec // the documentation's
	exampleScope  = "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request"
)

var exampleTime = time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)

func request(t *testing.T, head string) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(strings.ReplaceAll(head, "\n", "\r\n") + "\r\n\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func authorizationHeader(signed, signature string) string {
	return "Authorization: AWS4-HMAC-SHA256 Credential=" + exampleScope + ",SignedHeaders=" + signed + ",Signature=" + signature
}

func TestDocumentedSignatures(t *testing.T) {
	empty := "x-amz-content-sha256: " + emptySHA256 + "\nx-amz-date: 20130524T000000Z\n"
	for name, head := range map[string]string{
		"get": "GET /test.txt HTTP/1.1\nHost: examplebucket.s3.amazonaws.com\nRange: bytes=0-9\n" + empty +
			authorizationHeader("host;range;x-amz-content-sha256;x-amz-date", "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
		"put": "PUT /test$file.text HTTP/1.1\nHost: examplebucket.s3.amazonaws.com\nDate: Fri, 24 May 2013 00:00:00 GMT\nx-amz-storage-class: REDUCED_REDUNDANCY\n" +
			"x-amz-content-sha256: 44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072\nx-amz-date: 20130524T000000Z\n" +
			authorizationHeader("date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class", "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"),
		"query": "GET /?lifecycle HTTP/1.1\nHost: examplebucket.s3.amazonaws.com\n" + empty +
			authorizationHeader("host;x-amz-content-sha256;x-amz-date", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
		"list": "GET /?max-keys=2&prefix=J HTTP/1.1\nHost: examplebucket.s3.amazonaws.com\n" + empty +
			authorizationHeader("host;x-amz-content-sha256;x-amz-date", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
	} {
		t.Run(name, func(t *testing.T) {
			r := request(t, head)
			a, ok := parseAuthorization(r.Header.Get("Authorization"))
			if !ok {
				t.Fatal("the header was not understood")
			}
			payload := r.Header.Get("X-Amz-Content-Sha256")
			if _, bad := verify(r, a, exampleSecret, payload, exampleTime.Add(time.Minute)); bad != nil {
				t.Error(bad)
			}
			if _, bad := verify(r, a, exampleSecret, payload, exampleTime.Add(time.Hour)); bad == nil || bad.code != "RequestTimeTooSkewed" {
				t.Error("an hour later:", bad)
			}
			for what, change := range map[string]func(*http.Request){
				"method": func(r *http.Request) { r.Method = "DELETE" },
				"path":   func(r *http.Request) { r.RequestURI = "/other" },
				"query":  func(r *http.Request) { r.RequestURI += "&x=1" },
				"host":   func(r *http.Request) { r.Host = "other" },
				"header": func(r *http.Request) { r.Header.Set("X-Amz-Copy-Source", "/a/b") },
			} {
				r := request(t, head)
				change(r)
				if _, bad := verify(r, a, exampleSecret, payload, exampleTime); bad == nil {
					t.Errorf("another %s went unnoticed", what)
				}
			}
		})
	}
}

// exampleChunks is the documentation's upload of 66,560 letters in two chunks.
func exampleChunks(t *testing.T, change func(string) string) ([]byte, *apiError) {
	t.Helper()
	r := request(t, "PUT /examplebucket/chunkObject.txt HTTP/1.1\nHost: s3.amazonaws.com\nx-amz-date: 20130524T000000Z\n"+
		"x-amz-storage-class: REDUCED_REDUNDANCY\nx-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD\nContent-Encoding: aws-chunked\n"+
		"x-amz-decoded-content-length: 66560\nContent-Length: 66824\n"+
		authorizationHeader("content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class",
			"4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"))
	a, _ := parseAuthorization(r.Header.Get("Authorization"))
	s, bad := verify(r, a, exampleSecret, streamingSigned, exampleTime)
	if bad != nil {
		t.Fatal(bad)
	}
	chunk := func(data, signature string) string {
		return fmt.Sprintf("%x;chunk-signature=%s\r\n%s\r\n", len(data), signature, data)
	}
	text := chunk(strings.Repeat("a", 65536), "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648") +
		chunk(strings.Repeat("a", 1024), "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497") +
		chunk("", "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9")
	r.Body = io.NopCloser(strings.NewReader(change(text)))
	b, bad := openBody(r, s)
	if bad != nil {
		t.Fatal(bad)
	}
	data := make([]byte, b.size)
	return data, b.readInto(data, nil)
}

func TestDocumentedChunks(t *testing.T) {
	data, bad := exampleChunks(t, func(s string) string { return s })
	if bad != nil || !bytes.Equal(data, bytes.Repeat([]byte("a"), 66560)) {
		t.Fatal(bad)
	}
	for what, change := range map[string]func(string) string{
		"a byte":          func(s string) string { return strings.Replace(s, "aaaa", "abaa", 1) },
		"the last byte":   func(s string) string { i := strings.LastIndex(s, "a\r\n"); return s[:i] + "b" + s[i+1:] },
		"a signature":     func(s string) string { return strings.Replace(s, "0055", "0056", 1) },
		"no last chunk":   func(s string) string { return s[:strings.LastIndex(s, "0;")] },
		"the end cut off": func(s string) string { return s[:40000] },
		"a wrong size":    func(s string) string { return strings.Replace(s, "400;", "3ff;", 1) },
	} {
		if _, bad := exampleChunks(t, change); bad == nil {
			t.Errorf("%s: went unnoticed", what)
		}
	}
}

// FuzzChunks: whatever a body is, it is decoded or refused, and signed chunks are never taken without their signature.
func FuzzChunks(f *testing.F) {
	f.Add("5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n", true, false)
	f.Add("5;chunk-signature=00\r\nhello\r\n0;chunk-signature=00\r\n\r\n", false, true)
	f.Fuzz(func(t *testing.T, text string, trailing, signed bool) {
		c := &chunks{in: bufio.NewReader(strings.NewReader(text)), trailing: trailing}
		if signed {
			c.signer = &signer{key: []byte("k"), time: "t", scope: "s"}
		}
		b := &body{r: c, trailers: c.trailers}
		dst := make([]byte, 5)
		if bad := b.readInto(dst, nil); bad == nil && signed {
			t.Error("unsigned bytes were taken for signed ones")
		}
	})
}

// FuzzRequest: no head makes the door do anything but answer.
func FuzzRequest(f *testing.F) {
	f.Add("GET", "/a//b?list-type=2&x", "h.localhost", "AWS4-HMAC-SHA256 Credential=a/b/c/s3/aws4_request,SignedHeaders=host,Signature=0")
	f.Fuzz(func(t *testing.T, method, uri, host, auth string) {
		r := &http.Request{Method: method, RequestURI: uri, Host: host, Header: http.Header{"Authorization": {auth}, "X-Amz-Date": {"20130524T000000Z"}}, Body: http.NoBody}
		c := &call{d: New(Options{Credential: credential}), r: r}
		if bad := c.understand(); bad == nil {
			t.Errorf("%s %s was let in", method, uri)
		}
	})
}
