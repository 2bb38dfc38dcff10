package identity

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/penstock/penstock/scheduler/statefile"
)

// DeploymentTokens are the secrets by which the runs that a cluster starts by itself prove which deployment they belong to:
// where Nomad restarts or replaces an allocation, no controller is there to write a token for it. One secret stands for all
// runs of a deployment until it is revoked; which runs there are, and of which launch each is, the cluster says and not the
// run. Each is a file of its own, 0600.
//
//	psd- NAME . base64url( 32 random bytes )
//
// It is safe for concurrent use, by several processes too.
type DeploymentTokens struct {
	dir string
}

const (
	deploymentPrefix = "psd-"
	maxToken         = 256
)

// OpenDeploymentTokens uses a folder, made or checked as by SecureDir.
func OpenDeploymentTokens(dir string) (*DeploymentTokens, error) {
	if err := SecureDir(dir); err != nil {
		return nil, err
	}
	return &DeploymentTokens{dir: dir}, nil
}

func (t *DeploymentTokens) file(deployment string) string {
	return filepath.Join(t.dir, deployment+".token")
}

// Token returns a deployment's secret, which is made at the first call and after each Revoke.
func (t *DeploymentTokens) Token(deployment string) (string, error) {
	if !validPart(deployment) {
		return "", fmt.Errorf("token of deployment %q: no name of one", deployment)
	}
	name := t.file(deployment)
	for range 2 {
		token, err := statefile.ReadPrivate(name, maxToken)
		if !errors.Is(err, fs.ErrNotExist) {
			return string(token), err
		}
		var secret [32]byte
		_, _ = rand.Read(secret[:]) // never fails
		fresh := deploymentPrefix + deployment + "." + base64.RawURLEncoding.EncodeToString(secret[:])
		err = statefile.WriteNew(statefile.OS{}, name, []byte(fresh))
		if err == nil {
			return fresh, nil
		}
		if !errors.Is(err, fs.ErrExist) { // else another process was faster
			return "", fmt.Errorf("token of deployment %s: %w", deployment, err)
		}
	}
	return "", fmt.Errorf("token of deployment %s: it is made and removed at once by others", deployment)
}

// IsDeploymentToken tells tokens of deployments from those of launches. It proves nothing.
func IsDeploymentToken(token string) bool { return strings.HasPrefix(token, deploymentPrefix) }

// Check returns the deployment whose secret a token is, or ErrTokenInvalid.
func (t *DeploymentTokens) Check(token string) (deployment string, err error) {
	rest, ok := strings.CutPrefix(token, deploymentPrefix)
	at := strings.LastIndexByte(rest, '.')
	if !ok || at < 1 || len(token) > maxToken || !validPart(rest[:at]) {
		return "", ErrTokenInvalid
	}
	want, err := statefile.ReadPrivate(t.file(rest[:at]), maxToken)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("check a deployment's token: %w", err)
	}
	if err != nil || subtle.ConstantTimeCompare(want, []byte(token)) != 1 {
		return "", ErrTokenInvalid
	}
	return rest[:at], nil
}

// Revoke makes a deployment's secret worthless. It is idempotent.
func (t *DeploymentTokens) Revoke(deployment string) error {
	if !validPart(deployment) {
		return nil
	}
	if err := os.Remove(t.file(deployment)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("revoke the token of deployment %s: %w", deployment, err)
	}
	return nil
}
