package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"os"
	"path/filepath"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/front/shm"
	"github.com/penstock/penstock/scheduler/identity"
)

// neighbourSocket is where the agent of a launch at an address lets others of this node and user look into its host tier. All of
// them have the same runtime folder, which nobody else can enter.
func neighbourSocket(runtimeDir, launch, address string) (string, error) {
	sum := sha256.Sum256([]byte(launch + "\x00" + address))
	return identity.SocketPath(runtimeDir, "kv-"+hex.EncodeToString(sum[:5])+".sock")
}

// serveNeighbours lets other agents of this node read blocks where they lie, until the context ends. Without it they come
// over TLS as those of other nodes do.
func (r *run) serveNeighbours(ctx context.Context) {
	path, err := neighbourSocket(r.opts.RuntimeDir, r.opts.Join.Launch, r.address)
	if err != nil {
		r.log.Debug().Err(err).Msg("no shared memory for neighbours")
		return
	}
	_ = os.Remove(path) // of a run that was killed, and had this address
	l, err := net.ListenUnix(shm.Network, &net.UnixAddr{Name: path, Net: shm.Network})
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		r.log.Debug().Err(err).Msg("no shared memory for neighbours")
		return
	}
	d := shm.New(shm.Options{
		Store: r.kv.Store(), First: r.kv.Host(), Locate: r.kv.Locate, PeerUID: identity.PeerUID, Counts: r.agent.metrics.doors.Door("shm"), Log: r.log,
	})
	if err := d.Serve(ctx, l); err != nil {
		r.log.Warn().Err(err).Msg("shared memory for neighbours broke")
	}
}

// tidyNeighbours removes the sockets of agents that were killed, as best it can.
func tidyNeighbours(runtimeDir string) {
	paths, _ := filepath.Glob(filepath.Join(runtimeDir, "kv-*.sock"))
	for _, path := range paths {
		c, err := net.Dial(shm.Network, path)
		if err != nil {
			_ = os.Remove(path)
			continue
		}
		_ = c.Close()
	}
}

// neighbour is an agent on this node, for one request.
type neighbour struct {
	run  *run
	path string
}

// Fetch copies blocks out of the neighbour's memory into ours, and checks what it has got.
func (n neighbour) Fetch(ctx context.Context, keys []kvstore.Key, each func(i int, b *kvstore.Block) error) error {
	c, err := shm.Dial(ctx, n.path, identity.PeerUID)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Fetch(ctx, keys, func(i int, theirs *kvstore.Block) error {
		ours, err := n.run.kv.Alloc().Alloc(theirs.Len())
		if err != nil {
			return nil // no room: a miss
		}
		defer ours.Release()
		copy(ours.Bytes(), theirs.Bytes())
		if ours.SealAs(theirs.Sum()) != nil {
			return nil // changed meanwhile: a miss
		}
		return each(i, ours)
	})
}
