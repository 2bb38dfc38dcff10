package s3

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awscredentials "github.com/aws/aws-sdk-go-v2/credentials"
	aws3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const room = 256 << 20

// open serves a door on loopback until the test ends, and then sees that no block is out but the stored ones.
func open(t *testing.T, s *storetest.Shelf, change func(*Options)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Store: s, Alloc: s, Log: zerolog.Nop(), Credential: credential, Stall: 20 * time.Second}
	if change != nil {
		change(&o)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- New(o).Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if s.Forget(); s.Live() != 0 {
			t.Errorf("%d blocks are out", s.Live())
		}
	})
	return l.Addr().String()
}

func credential(key string) (string, kvstore.Space, bool) {
	if key != "alice" && key != "bob" {
		return "", kvstore.Space{}, false
	}
	return "secret of " + key, kvstore.NewSpace(kvstore.Layout{}, key), true
}

func minioClient(t *testing.T, address, user string, change func(*minio.Options)) *minio.Client {
	t.Helper()
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	o := &minio.Options{Creds: credentials.NewStaticV4(user, "secret of "+user, ""), Transport: transport, MaxRetries: 1}
	if change != nil {
		change(o)
	}
	c, err := minio.New(address, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

// TestMinio: MinIO's client, with all its ways to send a body.
func TestMinio(t *testing.T) {
	address := open(t, storetest.NewShelf(room), nil)
	for name, o := range map[string]minio.PutObjectOptions{
		"plain":     {},
		"single":    {DisableMultipart: true},
		"md5":       {SendContentMd5: true},
		"crc32c":    {Checksum: minio.ChecksumCRC32C},
		"crc64nvme": {Checksum: minio.ChecksumCRC64NVME, DisableMultipart: true},
		"sha256":    {Checksum: minio.ChecksumSHA256, DisableMultipart: true},
		"unsigned":  {DisableContentSha256: true},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			for _, trailing := range []bool{false, true} {
				if !trailing && o.Checksum.IsSet() {
					continue // the client wants trailers for it
				}
				c := minioClient(t, address, "alice", func(o *minio.Options) { o.TrailingHeaders = trailing })
				for _, size := range []int{0, 1, 65_536, 6<<20 + 7, 17 << 20} {
					data := random(size)
					at := fmt.Sprintf("dir/%d", size) // each replaces the one before
					if _, err := c.PutObject(ctx, "cache", at, bytes.NewReader(data), int64(size), o); err != nil {
						t.Fatalf("put %s: %v", at, err)
					}
					r, err := c.GetObject(ctx, "cache", at, minio.GetObjectOptions{})
					if err != nil {
						t.Fatal(err)
					}
					got, err := io.ReadAll(r)
					_ = r.Close()
					if err != nil || !bytes.Equal(got, data) {
						t.Fatalf("%s: got %d bytes of %d, %v", at, len(got), size, err)
					}
				}
			}
		})
	}
}

// TestMinioRest: ranges, listing, removal, and what is not there.
func TestMinioRest(t *testing.T) {
	s := storetest.NewShelf(room)
	c := minioClient(t, open(t, s, nil), "alice", nil)
	ctx := t.Context()
	data := random(100_000)
	for i := range 25 {
		if _, err := c.PutObject(ctx, "cache", fmt.Sprintf("a/%d/x", i), bytes.NewReader(data), int64(len(data)), minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	o := minio.GetObjectOptions{}
	_ = o.SetRange(10, 99)
	r, err := c.GetObject(ctx, "cache", "a/3/x", o)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	_ = r.Close()
	if err != nil || !bytes.Equal(got, data[10:100]) {
		t.Fatalf("range: %d bytes, %v", len(got), err)
	}
	count := func(o minio.ListObjectsOptions) (n int) {
		for info := range c.ListObjectsIter(ctx, "cache", o) {
			if info.Err != nil {
				t.Fatal(info.Err)
			}
			n++
		}
		return n
	}
	if n := count(minio.ListObjectsOptions{Recursive: true, MaxKeys: 7}); n != 25 {
		t.Errorf("listed %d of 25", n)
	}
	if n := count(minio.ListObjectsOptions{Prefix: "a/", MaxKeys: 7}); n != 25 {
		t.Errorf("listed %d of 25 folders", n)
	}
	if n := count(minio.ListObjectsOptions{}); n != 1 {
		t.Errorf("listed %d of 1 folder", n)
	}
	if err := c.RemoveObject(ctx, "cache", "a/3/x", minio.RemoveObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = c.StatObject(ctx, "cache", "a/3/x", minio.StatObjectOptions{})
	if minio.ToErrorResponse(err).Code != minio.NoSuchKey {
		t.Errorf("a removed object: %v", err)
	}
	s.Forget()
	if n := count(minio.ListObjectsOptions{Recursive: true}); n != 0 {
		t.Errorf("the listing has %d objects that the store has forgotten", n)
	}
	if ok, err := c.BucketExists(ctx, "any"); !ok || err != nil {
		t.Error(ok, err)
	}
}

// TestUsersNeverMeet, and wrong secrets open nothing.
func TestUsersNeverMeet(t *testing.T) {
	address := open(t, storetest.NewShelf(room), nil)
	a, b := minioClient(t, address, "alice", nil), minioClient(t, address, "bob", nil)
	ctx := t.Context()
	if _, err := a.PutObject(ctx, "cache", "x", strings.NewReader("mine"), 4, minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.StatObject(ctx, "cache", "x", minio.StatObjectOptions{}); minio.ToErrorResponse(err).Code != minio.NoSuchKey {
		t.Errorf("bob sees alice's object: %v", err)
	}
	if n := len(objects(ctx, b)); n != 0 {
		t.Errorf("bob lists %d objects of alice's", n)
	}
	for code, creds := range map[string]*credentials.Credentials{
		"SignatureDoesNotMatch": credentials.NewStaticV4("alice", "secret of bob", ""),
		"InvalidAccessKeyId":    credentials.NewStaticV4("mallory", "secret of mallory", ""),
		"AccessDenied":          credentials.NewStatic("", "", "", credentials.SignatureAnonymous),
	} {
		c := minioClient(t, address, "alice", func(o *minio.Options) { o.Creds = creds })
		_, err := c.PutObject(ctx, "cache", "x", strings.NewReader("theirs"), 6, minio.PutObjectOptions{})
		if got := minio.ToErrorResponse(err).Code; got != code {
			t.Errorf("%s: %v", code, err)
		}
	}
}

func objects(ctx context.Context, c *minio.Client) (names []string) {
	for info := range c.ListObjectsIter(ctx, "cache", minio.ListObjectsOptions{Recursive: true}) {
		names = append(names, info.Key)
	}
	return names
}

// TestAWS: the AWS SDK, whose bodies come with checksums in trailers, in both addressing styles and with odd names.
func TestAWS(t *testing.T) {
	address := open(t, storetest.NewShelf(room), nil)
	_, port, _ := net.SplitHostPort(address)
	ctx := t.Context()
	for _, pathStyle := range []bool{true, false} {
		c := aws3.New(aws3.Options{
			Region: "us-east-1", UsePathStyle: pathStyle, BaseEndpoint: aws.String("http://localhost:" + port),
			Credentials: awscredentials.NewStaticCredentialsProvider("alice", "secret of alice", ""),
			HTTPClient:  awsHTTP(t, address), RetryMaxAttempts: 1,
		})
		for i, name := range []string{"plain", "//model_0123456789ab_r0/abc/de_g0/f.bin", "/leading", "a b+c=d@e%2F&f", "ü/漢", "dots/../x/./y", "trailing/"} {
			data := random(70_000 + i)
			if _, err := c.PutObject(ctx, &aws3.PutObjectInput{Bucket: aws.String("cache"), Key: aws.String(name), Body: bytes.NewReader(data)}); err != nil {
				t.Fatalf("put %q: %v", name, err)
			}
			out, err := c.GetObject(ctx, &aws3.GetObjectInput{Bucket: aws.String("cache"), Key: aws.String(name), Range: aws.String("bytes=5-")})
			if err != nil {
				t.Fatalf("get %q: %v", name, err)
			}
			got, err := io.ReadAll(out.Body)
			_ = out.Body.Close()
			if err != nil || !bytes.Equal(got, data[5:]) {
				t.Fatalf("get %q: %d bytes, %v", name, len(got), err)
			}
		}
		list, err := c.ListObjectsV2(ctx, &aws3.ListObjectsV2Input{Bucket: aws.String("cache"), Prefix: aws.String("/")})
		if err != nil || len(list.Contents) != 2 {
			t.Fatalf("listed %d objects with a leading slash, %v", len(list.Contents), err)
		}
	}
}

// TestAWSMultipart: parts out of order, one of them twice, and an upload that is given up.
func TestAWSMultipart(t *testing.T) {
	address := open(t, storetest.NewShelf(room), nil)
	ctx := t.Context()
	c := aws3.New(aws3.Options{
		Region: "us-east-1", UsePathStyle: true, BaseEndpoint: aws.String("http://" + address),
		Credentials: awscredentials.NewStaticCredentialsProvider("alice", "secret of alice", ""), HTTPClient: awsHTTP(t, address),
	})
	up, err := c.CreateMultipartUpload(ctx, &aws3.CreateMultipartUploadInput{Bucket: aws.String("cache"), Key: aws.String("m")})
	if err != nil {
		t.Fatal(err)
	}
	data := random(12 << 20)
	parts := make([]types.CompletedPart, 3)
	for _, i := range []int{2, 0, 1, 2} {
		out, err := c.UploadPart(ctx, &aws3.UploadPartInput{
			Bucket: up.Bucket, Key: up.Key, UploadId: up.UploadId,
			PartNumber: aws.Int32(int32(i + 1)), Body: bytes.NewReader(data[i*4<<20 : (i+1)*4<<20]),
		})
		if err != nil {
			t.Fatal(err)
		}
		parts[i] = types.CompletedPart{PartNumber: aws.Int32(int32(i + 1)), ETag: out.ETag}
	}
	complete := &aws3.CompleteMultipartUploadInput{Bucket: up.Bucket, Key: up.Key, UploadId: up.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts}}
	if _, err := c.CompleteMultipartUpload(ctx, complete); err != nil {
		t.Fatal(err)
	}
	out, err := c.GetObject(ctx, &aws3.GetObjectInput{Bucket: up.Bucket, Key: up.Key})
	if err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(out.Body)
	_ = out.Body.Close()
	if !bytes.Equal(got, data) {
		t.Fatal("the object is not its parts in order")
	}
	if _, err := c.CompleteMultipartUpload(ctx, complete); err == nil {
		t.Error("an upload was completed twice")
	}
	left, err := c.CreateMultipartUpload(ctx, &aws3.CreateMultipartUploadInput{Bucket: aws.String("cache"), Key: aws.String("left")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.UploadPart(ctx, &aws3.UploadPartInput{Bucket: left.Bucket, Key: left.Key, UploadId: left.UploadId, PartNumber: aws.Int32(1), Body: strings.NewReader("x")}); err != nil {
		t.Fatal(err)
	} // open has to see that its block comes back
}

// awsHTTP dials the door whatever the host's name is.
func awsHTTP(t *testing.T, address string) *http.Client {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// TestNIXLProbe: at its start NIXL asks for an object that is not there, and wants a clean 404.
func TestNIXLProbe(t *testing.T) {
	s := storetest.NewShelf(room)
	d := New(Options{Store: s, Alloc: s, Anonymous: new(kvstore.Space)})
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		w := httptest.NewRecorder()
		d.ServeHTTP(w, httptest.NewRequest(method, "/kv/__nixl_probe__/connectivity_test", nil))
		if w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", method, w.Code)
		}
	}
}

// TestFull: what there is no room for is refused in a way that clients do not try again.
func TestFull(t *testing.T) {
	c := minioClient(t, open(t, storetest.NewShelf(1000), nil), "alice", nil)
	_, err := c.PutObject(t.Context(), "cache", "x", bytes.NewReader(random(2000)), 2000, minio.PutObjectOptions{})
	if got := minio.ToErrorResponse(err); got.StatusCode != http.StatusInsufficientStorage {
		t.Errorf("%+v", got)
	}
}

func TestByteRange(t *testing.T) {
	for s, want := range map[string][2]int64{
		"bytes=0-9": {0, 10}, "bytes=5-": {5, 100}, "bytes=-10": {90, 100}, "bytes=90-1000": {90, 100}, "bytes=-1000": {0, 100}, "bytes=99-99": {99, 100},
		"bytes=100-": {}, "bytes=9-5": {}, "bytes=-0": {}, "bytes=": {}, "bytes=a-b": {}, "lines=0-9": {}, "bytes=0-1,3-4": {}, "bytes=--5": {},
	} {
		from, to, ok := byteRange(s, 100)
		if ok != (want[1] > 0) || ok && (from != want[0] || to != want[1]) {
			t.Errorf("%s: %d to %d, %v", s, from, to, ok)
		}
	}
}

// TestNamesAreBounded: neither long names nor many buckets that are emptied again make the door's memory grow.
func TestNamesAreBounded(t *testing.T) {
	d := New(Options{Store: storetest.NewShelf(1 << 20), Anonymous: &kvstore.Space{}})
	for target, want := range map[string]int{
		"/b/" + strings.Repeat("k", maxName):   http.StatusNotFound,
		"/b/" + strings.Repeat("k", maxName+1): http.StatusBadRequest,
		"/" + strings.Repeat("b", maxBucket+1): http.StatusBadRequest,
	} {
		w := httptest.NewRecorder()
		if d.ServeHTTP(w, httptest.NewRequest(http.MethodGet, target, nil)); w.Code != want {
			t.Errorf("%.10s of %d bytes: %d", target, len(target), w.Code)
		}
	}
	l := newListing(10)
	for i := range 100 {
		bucket := strconv.Itoa(i)
		l.add(kvstore.Space{}, bucket, "k", 1)
		l.remove(kvstore.Space{}, bucket, "k")
	}
	if len(l.names) > 0 {
		t.Errorf("%d empty buckets are remembered", len(l.names))
	}
}

// patient is a store that asks whether its caller still waits, as those do that have to reach for a block.
type patient struct{ *storetest.Shelf }

func (s patient) Get(ctx context.Context, k kvstore.Key) (*kvstore.Block, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.Shelf.Get(ctx, k)
}

// TestAfterASlowRead: an answer that is read slowly, within its time, leaves the connection as good as it was.
func TestAfterASlowRead(t *testing.T) {
	s := storetest.NewShelf(64 << 20)
	address := open(t, s, func(o *Options) {
		o.Store, o.Anonymous, o.Stall = patient{s}, &kvstore.Space{}, 100*time.Millisecond
	})
	b, err := s.Alloc(16 << 20)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Put(t.Context(), (&call{bucket: "b", key: "k"}).at(), b.Seal(), kvstore.Hint{})
	b.Release()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in := bufio.NewReader(c)
	for i := range 2 {
		_, _ = io.WriteString(c, "GET /b/k HTTP/1.1\r\nHost: x\r\n\r\n")
		time.Sleep(300 * time.Millisecond)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK || n != 16<<20 {
			t.Errorf("read %d: %s, %d bytes, %v", i, resp.Status, n, err)
		}
	}
}
