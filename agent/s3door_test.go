package agent

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/penstock/penstock/jobspecs"
	spec "github.com/penstock/penstock/jobspecs/engine"
)

// TestS3DoorOfAStart: an S3 client that is told no more than the engine's environment says reaches the tiers once the engine is
// admitted, and nobody does without the credentials, which lie in a file of their own.
func TestS3DoorOfAStart(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	model := filepath.Join(dir, "model")
	if err := os.WriteFile(model, []byte("weights"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := jobspecs.Parse("f.yaml", fmt.Appendf(nil, `apiVersion: penstock/v1
name: d
model: {path: %s, servedName: m}
engine: {kind: vllm}
roles: {mixed: {gpus: 1}}
kv: {connector: native, host: 256MiB, disk: {path: %s, size: 1GiB}}
`, model, filepath.Join(dir, "kv")))
	if err != nil {
		t.Fatal(err)
	}
	r := &run{agent: &Agent{metrics: newMetrics(prometheus.NewRegistry())}, adm: &admission{deployment: d, role: jobspecs.Mixed}, log: zerolog.Nop(), dir: dir}
	r.kv = r.openKV(t.Context())
	defer r.closeKV()
	o, err := r.openDoor(1, r.weights())
	if err != nil || o.kind != spec.S3Door {
		t.Fatalf("%+v, %v", o, err)
	}
	e := &engineRun{door: o, weights: r.weights()}
	end := r.serveDoor(t.Context(), e)
	defer end()
	if info, err := os.Stat(o.access.Credentials); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("credentials: %v, %v", info.Mode(), err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	put := func(c *credentials.Credentials) error {
		m, err := minio.New(o.access.Address, &minio.Options{Creds: c, Transport: transport, MaxRetries: 1})
		if err != nil {
			t.Fatal(err)
		}
		if _, err = m.PutObject(t.Context(), spec.KVBucket, "//m_abc_r0/x.bin", bytes.NewReader([]byte("kv")), 2, minio.PutObjectOptions{DisableMultipart: true}); err != nil {
			return err
		}
		got, err := m.GetObject(t.Context(), spec.KVBucket, "//m_abc_r0/x.bin", minio.GetObjectOptions{})
		if err != nil {
			return err
		}
		defer got.Close()
		if text, err := io.ReadAll(got); err != nil || string(text) != "kv" {
			t.Errorf("%q, %v", text, err)
		}
		return nil
	}
	ours := credentials.NewFileAWSCredentials(o.access.Credentials, "default")
	if err := put(ours); err == nil {
		t.Error("the door is open before the engine's weights are known")
	}
	if err := r.admitKV(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if err := put(ours); err != nil {
		t.Error(err)
	}
	if err := put(credentials.NewStaticV4("guess", "guess", "")); err == nil {
		t.Error("a stranger was let in")
	}
}
