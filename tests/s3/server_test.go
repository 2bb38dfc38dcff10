// Package s3 tests the object tier against real S3 servers in processes of their own: versitygw always, MinIO where
// PENSTOCK_TEST_S3 says so. Both are built through the Go proxy at a pinned version into the user's cache folder; MinIO is
// neither linked nor shipped.
package s3

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

const (
	user   = "penstocktest"
	secret = "correct-horse-battery-staple"
	bucket = "kv-blocks"
)

// kind is an S3 server that the tests can build.
type kind struct {
	name, module, version string
	command               func(bin, address, root, cert, key string) *exec.Cmd
}

var versitygw = kind{
	"versitygw", "github.com/versity/versitygw/cmd/versitygw", "v1.8.0",
	func(bin, address, root, cert, key string) *exec.Cmd {
		return exec.Command(bin, "--access", user, "--secret", secret, "--port", address, "--cert", cert, "--key", key, "--quiet", "posix", root)
	},
}

var minioServer = kind{
	"minio", "github.com/minio/minio", "v0.0.0-20260212201848-7aac2a2c5b7c",
	func(bin, address, root, cert, _ string) *exec.Cmd {
		cmd := exec.Command(bin, "server", "--address", address, "--certs-dir", filepath.Dir(cert), "--quiet", root)
		cmd.Env = append(os.Environ(), "MINIO_ROOT_USER="+user, "MINIO_ROOT_PASSWORD="+secret, "MINIO_UPDATE=off", "MINIO_BROWSER=off")
		return cmd
	},
}

// servers are those that this run tests.
func servers() []kind {
	if os.Getenv("PENSTOCK_TEST_S3") == "minio" {
		return []kind{minioServer}
	}
	return []kind{versitygw}
}

// build returns the program, which is built once for all runs on this machine.
func (k kind) build(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "penstock-tests", k.name+"-"+k.version)
	bin := filepath.Join(dir, filepath.Base(k.module))
	if _, err := os.Stat(bin); err == nil {
		return bin
	}
	t.Logf("building %s %s, once", k.name, k.version)
	cmd := exec.Command("go", "install", k.module+"@"+k.version)
	cmd.Dir = t.TempDir() // outside of every module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOBIN="+dir, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("%s cannot be built: %v\n%s", k.name, err, out)
	}
	return bin
}

// server is a running one, with an empty bucket.
type server struct {
	t       *testing.T
	kind    kind
	bin     string
	root    string // where it keeps its objects
	address string
	cert    string // PEM file, which is its own CA
	key     string
	login   string // credentials file
	cmd     *exec.Cmd
	client  *minio.Client
}

func start(t *testing.T, k kind) *server {
	t.Helper()
	s := &server{t: t, kind: k, bin: k.build(t), root: t.TempDir(), address: freeAddress(t)}
	s.cert, s.key = certificate(t)
	s.login = filepath.Join(t.TempDir(), "credentials")
	text := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", user, secret)
	if err := os.WriteFile(s.login, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.pool()}}
	client, err := minio.New(s.address, &minio.Options{
		Creds: credentials.NewStaticV4(user, secret, ""), Secure: true, Transport: transport, BucketLookup: minio.BucketLookupPath, Region: "us-east-1",
	})
	if err != nil {
		t.Fatal(err)
	}
	s.client = client
	s.run()
	t.Cleanup(func() { s.kill(); transport.CloseIdleConnections() })
	if err := client.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	return s
}

// run starts the process and waits until it answers.
func (s *server) run() {
	s.t.Helper()
	s.cmd = s.kind.command(s.bin, s.address, s.root, s.cert, s.key)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(filepath.Join(s.t.TempDir(), "log"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(s.t.Context(), time.Second)
		_, err := s.client.ListBuckets(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			text, _ := os.ReadFile(log.Name())
			s.t.Fatalf("%s does not answer: %v\n%s", s.kind.name, err, text)
		}
	}
}

func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// endpoint is the server's own address.
func (s *server) endpoint() string { return "https://" + s.address }

func (s *server) pool() *x509.CertPool {
	text, err := os.ReadFile(s.cert)
	if err != nil {
		s.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	return pool
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// certificate makes one for the loopback address, with the names that MinIO looks for.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "penstock test"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "public.crt"), filepath.Join(dir, "private.key")
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}
