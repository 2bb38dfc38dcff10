package cli

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/identity"
)

func (c *controller) joinPath(l cluster.Launch) string {
	return filepath.Join(c.state, "join", string(l.ID)+".json")
}

// joinTTL bounds how long a job may wait in a queue before it starts.
const joinTTL = 14 * 24 * time.Hour

func (c *controller) writeJoinFile(l cluster.Launch) (string, error) {
	path := c.joinPath(l)
	if err := identity.SecureDir(filepath.Dir(path)); err != nil {
		return "", err
	}
	return path, identity.WriteJoinFile(path, identity.JoinFile{
		Launch: string(l.ID), Token: c.tokens.Mint(string(l.ID), time.Now().Add(joinTTL)),
		EndpointFile: filepath.Join(c.state, endpointFile), Controllers: c.controllerURLs(l.Cluster),
		CAPEM: string(c.ca.PEM()), Installation: c.ca.Installation(),
	})
}

func (c *controller) removeJoinFile(l cluster.Launch) error {
	c.server.Forget(string(l.ID))
	if err := os.Remove(c.joinPath(l)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
