package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/penstock/penstock/jobspecs"
	spec "github.com/penstock/penstock/jobspecs/engine"
	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/front/folder"
	"github.com/penstock/penstock/kvstore/front/resp"
	"github.com/penstock/penstock/kvstore/front/s3"
	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/identity"
	"github.com/penstock/penstock/scheduler/statefile"
)

// door is the front door of one start of the engine. Its one user is that engine, its space that engine's weights and
// arguments; nothing of either is taken from what the engine says.
type door struct {
	kind   spec.Door
	access spec.KVAccess
	space  kvstore.Space
	gate   *gate // nil: the engine does not ask for blocks, it reads files
	serve  func(context.Context) error
	close  func() // of a door that is not served
}

// on has the door serve a listener.
func (o *door) on(l net.Listener, serve func(context.Context, net.Listener) error) {
	o.serve = func(ctx context.Context) error { return serve(ctx, l) }
	o.close = func() { _ = l.Close() }
}

// openDoor opens the door of the n-th start of the engine, for weights of this fingerprint; nil where the deployment has none.
// It listens before the engine starts, and answers once it is served.
func (r *run) openDoor(n int, weights string) (*door, error) {
	d := r.adm.deployment
	kind := spec.KVDoor(d)
	switch {
	case kind == spec.FileDoor:
		return r.openFiles(weights)
	case r.kv == nil, kind != spec.RESPDoor && kind != spec.S3Door:
		return nil, nil
	}
	o := &door{kind: kind, gate: &gate{Store: r.kv.Store()}}
	if weights != "" { // without, the door stays shut: the engine finds nothing, and runs
		o.space = kvstore.NewSpace(r.layout(weights), r.tenant())
	}
	open := o.openRESP
	if kind == spec.S3Door {
		open = o.openS3
	}
	if err := open(r, n); err != nil {
		return nil, fmt.Errorf("open the KV door: %w", err)
	}
	return o, nil
}

// openRESP listens on a unix socket in the run's folder, which nobody else can enter.
func (o *door) openRESP(r *run, n int) (err error) {
	if o.access.Socket, err = identity.SocketPath(r.dir, fmt.Sprintf("kv%d.sock", n)); err != nil {
		return err
	}
	_ = os.Remove(o.access.Socket) // of a start that failed
	l, err := net.Listen("unix", o.access.Socket)
	if err != nil {
		return err
	}
	o.on(l, resp.New(resp.Options{
		Store: o.gate, Alloc: r.kv.Alloc(), Anonymous: &o.space, Log: r.log, Metrics: r.agent.metrics.doors,
	}).Serve)
	return os.Chmod(o.access.Socket, 0o600)
}

// openS3 listens on loopback, which is open to all users of the node: each request must be signed with a secret of this start.
func (o *door) openS3(r *run, n int) (err error) {
	access, secret := rand.Text(), rand.Text()
	if o.access.Credentials, err = identity.SocketPath(r.dir, fmt.Sprintf("kv%d.credentials", n)); err != nil {
		return err
	}
	text := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", access, secret)
	if err := statefile.Write(statefile.OS{}, o.access.Credentials, []byte(text)); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	o.access.Address = l.Addr().String()
	o.on(l, s3.New(s3.Options{
		Store: o.gate, Alloc: r.kv.Alloc(), Log: r.log, Metrics: r.agent.metrics.doors,
		Credential: func(key string) (string, kvstore.Space, bool) { return secret, o.space, key == access },
	}).Serve)
	return nil
}

// openFiles takes over the folder into which the engine writes its blocks itself. It has a name of its own for each kind of
// KV, since the engine's own names hold the model's name and not its weights.
func (r *run) openFiles(weights string) (*door, error) {
	d := r.adm.deployment
	if weights == "" {
		return nil, errors.New("kv.connector: files: the weights have no fingerprint, and their KV must not meet that of others")
	}
	layout := r.layout(weights)
	o := &door{kind: spec.FileDoor, space: kvstore.NewSpace(layout, r.tenant())}
	options := folder.Options{
		Dir: filepath.Join(d.KV.Disk.Path, d.Name+"-"+string(r.adm.role)+"-files"), Sub: hex.EncodeToString(o.space[:8]),
		Budget: int64(d.KV.Disk.Size), Space: o.space, Counts: r.agent.metrics.doors.Door("files"), Log: r.log,
	}
	if r.kv != nil {
		options.Store, options.Alloc = r.kv.Store(), r.kv.Alloc()
		r.kv.Describe(o.space, layout, r.tenant())
	}
	f, err := folder.Open(options)
	if err != nil {
		return nil, err
	}
	o.access.Folder = filepath.Join(options.Dir, options.Sub)
	o.close = func() { _ = f.Close() }
	o.serve = func(ctx context.Context) error {
		f.Run(ctx)
		return f.Close()
	}
	return o, nil
}

// tenant is the only one that the deployment serves, whose blocks are then apart from all others'. Where it serves several, the
// engine's names part them: by its salt, or by the tag that each request is given.
func (r *run) tenant() string { return r.adm.deployment.Serving.Tenant }

// layout is what an engine's KV means that comes through a door.
func (r *run) layout(weights string) kvstore.Layout {
	d := r.adm.deployment
	p := d.Roles[r.adm.role].Parallel
	return kvstore.Layout{
		Weights: weights, Engine: spec.KVFormat(d, r.adm.role), DType: "as the connector names it", Attention: "unknown",
		BlockTokens: spec.KVBlock(d), Ranks: max(p.Tensor, 1) * max(p.Pipeline, 1),
	}
}

// serveDoor serves the door of one start of the engine until the returned function has returned.
func (r *run) serveDoor(ctx context.Context, e *engineRun) (end func()) {
	if e.door == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := e.door.serve(ctx); err != nil {
			r.log.Warn().Err(err).Msg("KV door broke: the engine goes on without it")
		}
	})
	return func() {
		cancel()
		serving.Wait()
	}
}

// errOtherWeights: the engine may have loaded other weights than its KV is named by.
var errOtherWeights = errors.New("the weights changed while the engine loaded them")

// admitKV lets an engine that has just started reach the KV tiers through its door, if it has loaded what the door's space
// says. Nobody knows what that is where the weights have changed since it was launched: an engine that writes files under
// their name must end then, and the others go on without the tiers.
func (r *run) admitKV(ctx context.Context, e *engineRun) error {
	switch same := e.door == nil || r.weights() == e.weights; {
	case e.door == nil || e.weights == "":
	case !same && e.door.gate == nil:
		err := errors.Join(errOtherWeights, os.RemoveAll(e.door.access.Folder))
		if e.proc != nil {
			err = errors.Join(err, e.proc.Stop(ctx, 0))
		}
		return err
	case !same:
		r.log.Warn().Err(errOtherWeights).Msg("KV tiers are not used until the engine's next start")
	case e.door.gate != nil:
		e.door.gate.open()
		r.kv.Describe(e.door.space, r.layout(e.weights), r.tenant())
	}
	return nil
}

// ports is what the door listens on, for status.
func (o *door) ports() []*apiv1.Port {
	switch {
	case o == nil || o.gate == nil:
		return nil
	case o.access.Address != "":
		return []*apiv1.Port{{Address: o.access.Address, Purpose: "kv door", Protection: "key"}}
	}
	return []*apiv1.Port{{Address: "unix:" + o.access.Socket, Purpose: "kv door", Protection: "directory"}}
}

// tiersOf are the tiers that the agent itself opens: of host memory what the engine leaves.
func tiersOf(d jobspecs.Deployment) jobspecs.KV {
	kv := d.KV
	kv.Host = spec.KVHost(d)
	if spec.KVDoor(d) == spec.FileDoor {
		kv.Disk = jobspecs.KVDisk{} // the engine's
	}
	return kv
}
