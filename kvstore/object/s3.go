package object

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/scheduler/statefile"
)

// s3 is a bucket of an S3 server. Each call is one request; what is tried again is decided above.
type s3 struct {
	core      *minio.Core
	transport *http.Transport
	bucket    string
	prefix    string // with a slash at its end, or empty
	host      string
}

var _ bucket = (*s3)(nil)

// openS3 makes a client. It sends nothing.
func openS3(t target, o Options) (*s3, error) {
	transport, err := newTransport(o)
	if err != nil {
		return nil, err
	}
	creds, err := findCredentials(o, transport)
	if err != nil {
		return nil, err
	}
	lookup := minio.BucketLookupAuto
	if o.PathStyle {
		lookup = minio.BucketLookupPath
	}
	core, err := minio.NewCore(t.host, &minio.Options{
		Creds: creds, Secure: !t.plain, Transport: transport, Region: o.Region, BucketLookup: lookup, MaxRetries: 1,
	})
	if err != nil {
		return nil, fmt.Errorf("S3 client for %s: %w", t.host, err)
	}
	return &s3{core: core, transport: transport, bucket: t.bucket, prefix: t.prefix, host: t.host}, nil
}

func newTransport(o Options) (*http.Transport, error) {
	t := &http.Transport{
		Proxy:        http.ProxyFromEnvironment,
		DialContext:  (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		MaxIdleConns: 4 * o.Workers, MaxIdleConnsPerHost: 4 * o.Workers, IdleConnTimeout: time.Minute,
		TLSHandshakeTimeout: 5 * time.Second, ExpectContinueTimeout: 5 * time.Second, DisableCompression: true,
		WriteBufferSize: 64 << 10, ReadBufferSize: 64 << 10,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if o.CAFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("CA file: %w", err)
	}
	t.TLSClientConfig.RootCAs = x509.NewCertPool()
	if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA file %s: no certificate in it", o.CAFile)
	}
	return t, nil
}

// findCredentials takes them from the file that is named, or from where AWS's own tools look: the environment, the user's
// file, the machine's role.
func findCredentials(o Options, transport http.RoundTripper) (*credentials.Credentials, error) {
	if o.CredentialsFile == "" {
		client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
		return credentials.NewChainCredentials([]credentials.Provider{
			&credentials.EnvAWS{}, &credentials.EnvMinio{}, &credentials.FileAWSCredentials{}, &credentials.IAM{Client: client},
		}), nil
	}
	if _, err := statefile.ReadPrivate(o.CredentialsFile, 64<<10); err != nil { // whose it is, and who else reads it
		return nil, fmt.Errorf("credentials: %w", err)
	}
	return credentials.NewFileAWSCredentials(o.CredentialsFile, o.Profile), nil
}

// String implements bucket.
func (b *s3) String() string {
	return "s3://" + b.bucket + "/" + strings.TrimSuffix(b.prefix, "/") + " at " + b.host
}

// Put implements bucket with one request, never multipart: that is not conditional, and corrupt on some servers.
func (b *s3) Put(ctx context.Context, name string, data []byte, ifAbsent bool) error {
	sum := binary.BigEndian.AppendUint32(nil, kvstore.Checksum(data))
	o := minio.PutObjectOptions{
		DisableMultipart: true, ContentType: "application/octet-stream",
		UserMetadata: map[string]string{"X-Amz-Checksum-Crc32c": base64.StdEncoding.EncodeToString(sum)},
	}
	if ifAbsent {
		o.SetMatchETagExcept("*")
	}
	_, err := b.core.Client.PutObject(ctx, b.bucket, b.prefix+name, bytes.NewReader(data), int64(len(data)), o)
	return s3Error(err)
}

// Get implements bucket.
func (b *s3) Get(ctx context.Context, name string, at, n int64) (io.ReadCloser, error) {
	var o minio.GetObjectOptions
	var err error
	switch {
	case at < 0:
		err = o.SetRange(0, at)
	case n >= 0:
		err = o.SetRange(at, at+n-1)
	case at > 0:
		err = o.SetRange(at, 0)
	}
	if err != nil {
		return nil, err
	}
	body, _, _, err := b.core.GetObject(ctx, b.bucket, b.prefix+name, o)
	if err != nil {
		return nil, s3Error(err)
	}
	return whole{body}, nil
}

// Stat implements bucket.
func (b *s3) Stat(ctx context.Context, name string) (stat, error) {
	info, err := b.core.StatObject(ctx, b.bucket, b.prefix+name, minio.StatObjectOptions{})
	return stat{info.Size, info.LastModified}, s3Error(err)
}

// List implements bucket.
func (b *s3) List(ctx context.Context, prefix string, each func(string, stat) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for info := range b.core.Client.ListObjectsIter(ctx, b.bucket, minio.ListObjectsOptions{Prefix: b.prefix + prefix, Recursive: true}) {
		if info.Err != nil {
			return s3Error(info.Err)
		}
		if err := each(strings.TrimPrefix(info.Key, b.prefix), stat{info.Size, info.LastModified}); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Delete implements bucket.
func (b *s3) Delete(ctx context.Context, name string) error {
	err := s3Error(b.core.RemoveObject(ctx, b.bucket, b.prefix+name, minio.RemoveObjectOptions{}))
	if errors.Is(err, errNoObject) {
		return nil
	}
	return err
}

// Touch implements bucket: the server copies the object onto itself.
func (b *s3) Touch(ctx context.Context, name string) error {
	_, err := b.core.Client.CopyObject(ctx,
		minio.CopyDestOptions{
			Bucket: b.bucket, Object: b.prefix + name, ReplaceMetadata: true,
			UserMetadata: map[string]string{"Touched": time.Now().UTC().Format(time.RFC3339)},
		},
		minio.CopySrcOptions{Bucket: b.bucket, Object: b.prefix + name})
	return s3Error(err)
}

// s3Error says what an error means for what is done next.
func s3Error(err error) error {
	if err == nil {
		return nil
	}
	r := minio.ToErrorResponse(err)
	switch {
	case r.Code == minio.NoSuchKey || r.StatusCode == http.StatusNotFound && r.Code != minio.NoSuchBucket:
		return errNoObject
	case r.StatusCode == http.StatusPreconditionFailed || r.StatusCode == http.StatusConflict && r.Code == "ConditionalRequestConflict":
		return errExists
	case r.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, err)
	case r.StatusCode == http.StatusNotImplemented:
		return fmt.Errorf("%w: %w", errNoConditions, err)
	case r.Code == minio.NoSuchBucket || r.StatusCode == http.StatusForbidden || r.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	return err
}

// idle closes connections that nobody uses.
func (b *s3) idle() { b.transport.CloseIdleConnections() }

// whole tells the end of an object, which may be damaged, from the end of its connection.
type whole struct{ io.ReadCloser }

// Read implements io.Reader.
func (w whole) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = errCut
	}
	return n, err
}
