// Package server runs S3 servers of others for tests, in processes of their own: versitygw always, MinIO where PENSTOCK_TEST_S3
// says so. Both are built through the Go proxy at a pinned version into the user's cache folder; MinIO is neither linked nor
// shipped.
package server

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

// What a server that is started has.
const (
	User   = "penstocktest"
	Secret = "correct-horse-battery-staple"
	Bucket = "kv-blocks" // empty
)

// Kind is an S3 server that the tests can build.
type Kind struct {
	Name            string
	module, version string
	command         func(bin, address, root, cert, key string) *exec.Cmd
}

var versitygw = Kind{
	"versitygw", "github.com/versity/versitygw/cmd/versitygw", "v1.8.0",
	func(bin, address, root, cert, key string) *exec.Cmd {
		return exec.Command(bin, "--access", User, "--secret", Secret, "--port", address, "--cert", cert, "--key", key, "--quiet", "posix", root)
	},
}

var minioServer = Kind{
	"minio", "github.com/minio/minio", "v0.0.0-20260212201848-7aac2a2c5b7c",
	func(bin, address, root, cert, _ string) *exec.Cmd {
		cmd := exec.Command(bin, "server", "--address", address, "--certs-dir", filepath.Dir(cert), "--quiet", root)
		cmd.Env = append(os.Environ(), "MINIO_ROOT_USER="+User, "MINIO_ROOT_PASSWORD="+Secret, "MINIO_UPDATE=off", "MINIO_BROWSER=off")
		return cmd
	},
}

// Kinds are those that this run tests.
func Kinds() []Kind {
	if os.Getenv("PENSTOCK_TEST_S3") == "minio" {
		return []Kind{minioServer}
	}
	return []Kind{versitygw}
}

// build returns the program, which is built once for all runs on this machine.
func (k Kind) build(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "penstock-tests", k.Name+"-"+k.version)
	bin := filepath.Join(dir, filepath.Base(k.module))
	if _, err := os.Stat(bin); err == nil {
		return bin
	}
	t.Logf("building %s %s, once", k.Name, k.version)
	cmd := exec.Command("go", "install", k.module+"@"+k.version)
	cmd.Dir = t.TempDir() // outside of every module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOBIN="+dir, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("%s cannot be built: %v\n%s", k.Name, err, out)
	}
	return bin
}

// Server is a running one, with an empty bucket.
type Server struct {
	Root    string // where it keeps its objects
	Address string // host:port
	Cert    string // PEM file, which is its own CA
	Login   string // credentials file

	t      *testing.T
	kind   Kind
	bin    string
	key    string
	cmd    *exec.Cmd
	client *minio.Client
}

// Start starts a server that ends with the test, and skips the test where it cannot be built.
func Start(t *testing.T, k Kind) *Server {
	t.Helper()
	s := &Server{t: t, kind: k, bin: k.build(t), Root: t.TempDir(), Address: freeAddress(t)}
	s.Cert, s.key = certificate(t)
	s.Login = filepath.Join(t.TempDir(), "credentials")
	text := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", User, Secret)
	if err := os.WriteFile(s.Login, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.Pool()}}
	client, err := minio.New(s.Address, &minio.Options{
		Creds: credentials.NewStaticV4(User, Secret, ""), Secure: true, Transport: transport, BucketLookup: minio.BucketLookupPath, Region: "us-east-1",
	})
	if err != nil {
		t.Fatal(err)
	}
	s.client = client
	s.Run()
	t.Cleanup(func() { s.Kill(); transport.CloseIdleConnections() })
	if err := client.MakeBucket(t.Context(), Bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	return s
}

// Run starts the process, again after Kill, and waits until it answers.
func (s *Server) Run() {
	s.t.Helper()
	s.cmd = s.kind.command(s.bin, s.Address, s.Root, s.Cert, s.key)
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
			s.t.Fatalf("%s does not answer: %v\n%s", s.kind.Name, err, text)
		}
	}
}

// Client is bare minio-go with the owner's credentials.
func (s *Server) Client() *minio.Client { return s.client }

// Signal sends the process a signal, such as SIGSTOP.
func (s *Server) Signal(sig syscall.Signal) error { return s.cmd.Process.Signal(sig) }

// Kill kills the process. What it had taken is there for the next Run.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// Endpoint is the server's own URL.
func (s *Server) Endpoint() string { return "https://" + s.Address }

// Pool trusts the server alone.
func (s *Server) Pool() *x509.CertPool {
	text, err := os.ReadFile(s.Cert)
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
