package reconcile

import (
	"fmt"
	"io"
	"strings"

	"github.com/penstock/penstock/jobspecs"
	"github.com/penstock/penstock/scheduler/cluster"
)

const (
	maxLaunchID = 40
	randomChars = 8
	// alphabet has 32 characters, without those that are easily taken for others.
	alphabet = "abcdefghijkmnpqrstuvwxyz23456789"
)

// NewLaunchID draws a launch token such as qwen-decode-0-k3v9x2mq. The deployment's name is cut where the whole would be
// too long.
func NewLaunchID(rand io.Reader, deployment string, role jobspecs.RoleKind, index int) (cluster.LaunchID, error) {
	var b [randomChars]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return "", fmt.Errorf("draw a launch token: %w", err)
	}
	for i := range b {
		b[i] = alphabet[int(b[i])%len(alphabet)]
	}
	tail := fmt.Sprintf("-%s-%d-%s", role, index, b[:])
	name := deployment[:min(len(deployment), maxLaunchID-len(tail))]
	return cluster.LaunchID(strings.TrimRight(name, "-") + tail), nil
}
