package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// suites are the Debian suites that hold other releases of Slurm. sid moves on: its release is what it is today.
var suites = map[string]string{"24.11": "trixie", "26.05": "sid"}

// ErrNoRelease means that a release of Slurm cannot be had: its suite has moved on to another.
var ErrNoRelease = errors.New("this release of Slurm cannot be had")

// Versions lists what Options.Version may name.
func Versions() []string { return []string{"24.11", "26.05"} }

// Prepare makes what beds of a release need, where it has not been made yet, which takes minutes. ErrNoRelease: it cannot be had.
func Prepare(ctx context.Context, version string) error {
	_, err := rootOf(ctx, version)
	return err
}

// rootOf returns the chroot that holds a release of Slurm, and makes it where it has not been made yet: about two minutes
// and half a gigabyte, in the user's cache folder.
func rootOf(ctx context.Context, version string) (string, error) {
	if version == "" {
		return "", nil
	}
	suite, ok := suites[version]
	if !ok {
		return "", fmt.Errorf("no Debian suite is known for Slurm %s; there are %s", version, strings.Join(Versions(), " and "))
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = "/var/cache"
	}
	root := filepath.Join(cache, "penstock", "slurm-"+version)
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	if err := makeRoot(ctx, suite, root); err != nil {
		return "", fmt.Errorf("make a chroot with Slurm %s in %s: %w", version, root, err)
	}
	if got, err := releaseOf(ctx, root); err != nil || got != version {
		return "", errors.Join(ErrNoRelease, err, fmt.Errorf("suite %s has %s, not %s", suite, got, version), os.RemoveAll(root))
	}
	return root, nil
}

// install fills a chroot. It runs in a mount namespace of its own, so that nothing stays mounted.
const install = `
set -e
suite=$1 root=$2 mirror=$3
mkdir -p "$root"
mount --make-rprivate /
debootstrap --variant=minbase --include=ca-certificates "$suite" "$root" "$mirror"
cp /etc/resolv.conf "$root/etc/resolv.conf"
cp /etc/apt/apt.conf.d/* "$root/etc/apt/apt.conf.d/" 2>/dev/null || true
echo "deb $mirror $suite main" > "$root/etc/apt/sources.list"
printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
chmod +x "$root/usr/sbin/policy-rc.d"
mount --bind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
export DEBIAN_FRONTEND=noninteractive
chroot "$root" apt-get -q update
chroot "$root" apt-get install -y -q --no-install-recommends slurmctld slurmd slurm-client slurmrestd munge \
  slurm-wlm-basic-plugins slurm-wlm-jwt-plugin iproute2 procps
chroot "$root" apt-get clean
`

func makeRoot(ctx context.Context, suite, root string) error {
	mirror, err := aptMirror()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(root), 0o755); err != nil {
		return err
	}
	half, err := os.MkdirTemp(filepath.Dir(root), "half-")
	if err != nil {
		return err
	}
	if err := os.Chmod(half, 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", install, "install", suite, half, mirror)
	cmd.Env = append(os.Environ(), path)
	if _, err := collect(cmd); err != nil {
		return errors.Join(err, os.RemoveAll(half))
	}
	return os.Rename(half, root)
}

var (
	sourcesURI = regexp.MustCompile(`(?m)^URIs:\s*(\S+)`)
	listURI    = regexp.MustCompile(`(?m)^deb\s+(?:\[[^]]*\]\s+)?(\S+)`)
)

// aptMirror finds the mirror that this machine itself installs from.
func aptMirror() (string, error) {
	files, _ := filepath.Glob("/etc/apt/sources.list.d/*.sources")
	lists, _ := filepath.Glob("/etc/apt/sources.list.d/*.list")
	for _, name := range append(append([]string{"/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"}, files...), lists...) {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for _, re := range []*regexp.Regexp{sourcesURI, listURI} {
			if m := re.FindSubmatch(text); m != nil {
				return string(m[1]), nil
			}
		}
	}
	return "", errors.New("apt has no sources on this machine")
}

// inRoot begins a command that runs in a chroot.
func inRoot(root string) []string {
	if root == "" {
		return nil
	}
	return []string{"chroot", root}
}
