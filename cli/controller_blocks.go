package cli

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/penstock/penstock/kvstore/index"
	"github.com/penstock/penstock/scheduler/statefile"
)

const (
	// blocksFile holds what engines' caches are known to hold, so that a controller that starts again knows at once.
	blocksFile = "blocks.snapshot"
	// savedBlocks bounds it: some 25 million blocks.
	savedBlocks = 256 << 20
	// boardMemory bounds what is kept of it.
	boardMemory = 1 << 30
	saveEvery   = time.Minute
)

// restoreBlocks takes up what the controller before has known. Without it agents tell everything anew.
func (c *controller) restoreBlocks() {
	saved, err := statefile.ReadPrivate(filepath.Join(c.state, blocksFile), savedBlocks)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = c.server.Blocks().Restore(saved, index.Limit{Bytes: boardMemory})
	}
	if err != nil {
		c.log.Warn().Err(err).Msg("what engines' caches held before is not known: agents tell anew")
	}
}

// saveBlocks writes down what engines' caches hold, now and then and at the end.
func (c *controller) saveBlocks(ctx context.Context) error {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			c.saveBlocksOnce()
		case <-ctx.Done():
			c.saveBlocksOnce()
			return nil
		}
	}
}

func (c *controller) saveBlocksOnce() {
	saved, err := c.server.Blocks().Save()
	if err == nil && len(saved) <= savedBlocks {
		err = statefile.Write(statefile.OS{}, filepath.Join(c.state, blocksFile), saved)
	}
	if err != nil {
		c.log.Warn().Err(err).Msg("what engines' caches hold is not written down")
	}
}
