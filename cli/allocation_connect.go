package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/keys"
	"github.com/penstock/penstock/scheduler/statefile"
)

// connectFile says how to use the gateway of an allocation, as shell lines, 0600: it holds a key. The key stays the same for all
// jobs of one state folder, unless it is revoked; the URL changes with the job.
const connectFile = "connect.env"

// clientKey is the key of connectFile.
type clientKey struct {
	ID     string `json:"id"`
	Secret string `json:"secret"`
}

const clientKeyFile = "client-key.json"

// writeConnect writes the file and returns its path.
func (c *controller) writeConnect() (string, error) {
	key, err := c.clientKey()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "export OPENAI_BASE_URL=%s\nexport OPENAI_API_KEY=%s\n", shellWord(c.endpoint.GatewayURL), shellWord(key.Secret))
	if isTLS(c.endpoint.GatewayURL) {
		fmt.Fprintf(&b, "export SSL_CERT_FILE=%s\n", shellWord(c.ca.File()))
	}
	path := filepath.Join(c.state, connectFile)
	if err := statefile.Write(statefile.OS{}, path, []byte(b.String())); err != nil {
		return "", fmt.Errorf("write where to connect: %w", err)
	}
	return path, nil
}

func shellWord(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// clientKey is the key that was made for this state folder before, or a new one.
func (c *controller) clientKey() (clientKey, error) {
	path := filepath.Join(c.state, clientKeyFile)
	key, err := readJSON[clientKey](path)
	if err == nil && slices.ContainsFunc(c.keys.List(), func(k *apiv1.Key) bool { return k.Id == key.ID }) {
		return key, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	made, secret, err := c.keys.Create(keys.CreateOptions{Name: "connect-" + c.allocation.job})
	if errors.Is(err, keys.ErrTaken) { // an earlier run of this job has made it and was ended before it was written down
		if _, err := c.keys.Revoke("connect-" + c.allocation.job); err != nil {
			return key, err
		}
		made, secret, err = c.keys.Create(keys.CreateOptions{Name: "connect-" + c.allocation.job})
	}
	if err != nil {
		return key, fmt.Errorf("make a key: %w", err)
	}
	key = clientKey{ID: made.Id, Secret: secret}
	return key, writeJSON(path, key)
}
