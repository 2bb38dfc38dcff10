package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/rs/zerolog"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/object"
)

const (
	gatewayModule  = "github.com/versity/versitygw/cmd/versitygw"
	gatewayVersion = "v1.8.0" // as in tests/s3
	objectUser     = "penstockbench"
	objectSecret   = "penstockbench-secret"
	objectBucket   = "kv-blocks"
)

// benchObject measures the object tier over a versitygw of its own, in a folder under TMPDIR, against bare minio-go with the
// same blocks and parallelism: large blocks one by one, and small ones that are packed.
func benchObject(ctx context.Context, _ *options, r *report) (err error) {
	dir, err := os.MkdirTemp("", "penstock-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bin, err := buildGateway(ctx)
	if err != nil {
		r.note("object: not measured: %v", err)
		return nil
	}
	b, err := startGateway(ctx, bin, dir)
	if err != nil {
		return err
	}
	defer b.end()
	for _, size := range []int{1 << 20, 4 << 20} {
		if err := b.large(ctx, r, size); err != nil {
			return err
		}
	}
	return b.small(ctx, r)
}

// buildGateway returns the server's program, which the tests of the object tier build too.
func buildGateway(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "penstock-tests", "versitygw-"+gatewayVersion)
	bin := filepath.Join(dir, "versitygw")
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	cmd := exec.CommandContext(ctx, "go", "install", gatewayModule+"@"+gatewayVersion)
	cmd.Dir, cmd.Env = os.TempDir(), append(os.Environ(), "CGO_ENABLED=0", "GOBIN="+dir, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("versitygw cannot be built: %w: %s", err, bytes.TrimSpace(out))
	}
	return bin, nil
}

// objectBench is a server with an empty bucket.
type objectBench struct {
	cmd     *exec.Cmd
	client  *minio.Client
	options object.Options
	rounds  int
}

func startGateway(ctx context.Context, bin, dir string) (*objectBench, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := l.Addr().String()
	root, login := filepath.Join(dir, "root"), filepath.Join(dir, "credentials")
	text := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", objectUser, objectSecret)
	if err := errors.Join(l.Close(), os.Mkdir(root, 0o700), os.WriteFile(login, []byte(text), 0o600)); err != nil {
		return nil, err
	}
	b := &objectBench{cmd: exec.CommandContext(ctx, bin, "--access", objectUser, "--secret", objectSecret, "--port", address, "--quiet", "posix", root)}
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	b.client, err = minio.New(address, &minio.Options{
		Creds: credentials.NewStaticV4(objectUser, objectSecret, ""), BucketLookup: minio.BucketLookupPath, Region: "us-east-1", MaxRetries: 1,
	})
	if err != nil {
		return nil, err
	}
	b.options = object.Options{
		Endpoint: "http://" + address, Region: "us-east-1", PathStyle: true, CredentialsFile: login, Workers: diskWorkers, Timeout: time.Minute, Log: zerolog.Nop(),
	}
	if err := b.cmd.Start(); err != nil {
		return nil, err
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := b.client.MakeBucket(ctx, objectBucket, minio.MakeBucketOptions{})
		if err == nil {
			return b, nil
		}
		if time.Now().After(end) {
			b.end()
			return nil, fmt.Errorf("versitygw does not answer: %w", err)
		}
	}
}

func (b *objectBench) end() {
	_ = b.cmd.Process.Kill()
	_ = b.cmd.Wait()
}

// store opens one with a place of its own.
func (b *objectBench) store(ctx context.Context, pool kvstore.Allocator) (*object.Store, error) {
	b.rounds++
	o := b.options
	o.URL, o.Alloc = fmt.Sprintf("s3://%s/round-%d", objectBucket, b.rounds), pool
	return object.Open(ctx, o)
}

func (b *objectBench) barePut(ctx context.Context, i int, data []byte) error {
	_, err := b.client.PutObject(ctx, objectBucket, fmt.Sprintf("bare-%d/%d", b.rounds, i), bytes.NewReader(data), int64(len(data)),
		minio.PutObjectOptions{DisableMultipart: true})
	return err
}

// bareGet reads an object into memory that is there already, as a store does, and checks nothing.
func (b *objectBench) bareGet(ctx context.Context, i int, into kvstore.Allocator, size int) error {
	block, err := into.Alloc(size)
	if err != nil {
		return err
	}
	defer block.Release()
	o, err := b.client.GetObject(ctx, objectBucket, fmt.Sprintf("bare-%d/%d", b.rounds, i), minio.GetObjectOptions{})
	if err != nil {
		return err
	}
	defer o.Close()
	_, err = io.ReadFull(o, block.Bytes())
	return err
}

// randomBlock is a block that nothing compresses.
func randomBlock(size int) *kvstore.Block {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(data)
	return kvstore.NewBlock(data, nil).Seal()
}

// large alternates between the store and the bare client.
func (b *objectBench) large(ctx context.Context, r *report, size int) error {
	n := (64 << 20) / size
	block, memory := randomBlock(size), newBlockPool(size)
	var ours, theirs struct{ put, get []float64 }
	for range rounds {
		s, err := b.store(ctx, newBlockPool(size))
		if err != nil {
			return err
		}
		for _, m := range []struct {
			into *[]float64
			call func(int) error
		}{
			{&ours.put, func(i int) error { return s.Put(ctx, diskKey(i), block, kvstore.Hint{}) }},
			{&theirs.put, func(i int) error { return b.barePut(ctx, i, block.Bytes()) }},
			{&ours.get, func(i int) error {
				got, err := s.Get(ctx, diskKey(i))
				if err == nil {
					got.Release()
				}
				return err
			}},
			{&theirs.get, func(i int) error { return b.bareGet(ctx, i, memory, size) }},
		} {
			rate, err := rateOf(size, n, m.call)
			if err != nil {
				return errors.Join(err, s.Close(ctx))
			}
			*m.into = append(*m.into, rate)
		}
		if err := s.Close(ctx); err != nil {
			return err
		}
	}
	r.figure(fmt.Sprintf("object_put_%dk", size>>10), median(ours.put), "MB/s", "minio-go", median(theirs.put), more)
	r.figure(fmt.Sprintf("object_get_%dk", size>>10), median(ours.get), "MB/s", "minio-go", median(theirs.get), more)
	return nil
}

// small puts small blocks until they are durable and reads them back, against one object each.
func (b *objectBench) small(ctx context.Context, r *report) error {
	const size, n = 64 << 10, 512
	block, memory := randomBlock(size), newBlockPool(size)
	keys := make([]kvstore.Key, n)
	for i := range keys {
		keys[i] = diskKey(i)
	}
	var put, get, barePut, bareGet []float64
	for range rounds {
		s, err := b.store(ctx, newBlockPool(size))
		if err != nil {
			return err
		}
		begin := time.Now()
		_, err = rateOf(size, n, func(i int) error { return s.Put(ctx, keys[i], block, kvstore.Hint{}) })
		if err = errors.Join(err, s.Sync(ctx)); err != nil {
			return errors.Join(err, s.Close(ctx))
		}
		put = append(put, n/time.Since(begin).Seconds())
		begin = time.Now()
		found := 0
		err = s.GetMany(ctx, keys, func(int, *kvstore.Block) error { found++; return nil })
		get = append(get, n/time.Since(begin).Seconds())
		if err = errors.Join(err, s.Close(ctx)); err != nil || found != n {
			return fmt.Errorf("%d packed blocks of %d are found: %w", found, n, err)
		}
		for _, m := range []struct {
			into *[]float64
			call func(int) error
		}{
			{&barePut, func(i int) error { return b.barePut(ctx, i, block.Bytes()) }},
			{&bareGet, func(i int) error { return b.bareGet(ctx, i, memory, size) }},
		} {
			rate, err := rateOf(size, n, m.call)
			if err != nil {
				return err
			}
			*m.into = append(*m.into, rate*1e6/size)
		}
	}
	r.figure("object_packed_put_64k", median(put), "1/s", "one_object_each", median(barePut), more)
	r.figure("object_packed_get_64k", median(get), "1/s", "one_object_each", median(bareGet), more)
	return nil
}
