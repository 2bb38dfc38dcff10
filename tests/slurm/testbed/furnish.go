package testbed

import (
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// User is somebody with an account on all machines of a bed.
type User struct {
	Name string
	UID  int // and the only group
}

// The users of a bed. REST runs slurmrestd, which refuses to run as root.
var (
	Root  = User{"root", 0}
	Alice = User{"penstock-alice", 64001}
	Bob   = User{"penstock-bob", 64002}
	REST  = User{"penstock-rest", 64003}
)

var people = []User{Alice, Bob, REST}

// Person finds a user by name.
func Person(name string) (User, error) {
	for _, u := range append(people, Root) {
		if u.Name == name {
			return u, nil
		}
	}
	return User{}, fmt.Errorf("a test bed has no user %s", name)
}

// furnish fills the bed's folder: keys, fake devices, configuration, accounts, homes.
func (b *Bed) furnish() error {
	if err := os.Chmod(b.Dir, 0o755); err != nil {
		return err
	}
	if err := b.writeRecord(); err != nil {
		return err
	}
	for _, dir := range []string{"etc", "state", "spool", "log", "run", "dev", "bin", "home/root"} {
		if err := os.MkdirAll(b.path(dir), 0o755); err != nil {
			return err
		}
	}
	for n := range Nodes + 1 {
		tmp := b.path("machines", newMachine(b, n).Name, "tmp")
		if err := os.MkdirAll(tmp, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(tmp, 0o777|fs.ModeSticky); err != nil {
			return err
		}
	}
	if err := b.settle(); err != nil {
		return err
	}
	for i := range GPUs {
		if err := unix.Mknod(b.path("dev", fmt.Sprintf("nvidia%d", i)), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
			return fmt.Errorf("make a fake GPU: %w", err)
		}
	}
	return b.writeAll(map[string]string{
		"etc/jwt.key": secret(32), "etc/munge.key": secret(1024),
	}, 0o400, map[string]string{
		"etc/cgroup.conf": b.cgroupConf(), "etc/gres.conf": b.gresConf(), "etc/slurm.conf": b.slurmConfText(), "etc/hosts": b.hosts(),
	}, 0o644)
}

func (b *Bed) writeAll(secrets map[string]string, secretMode fs.FileMode, plain map[string]string, mode fs.FileMode) error {
	for name, text := range secrets {
		if err := os.WriteFile(b.path(name), []byte(text), secretMode); err != nil {
			return err
		}
	}
	for name, text := range plain {
		if err := os.WriteFile(b.path(name), []byte(text), mode); err != nil {
			return err
		}
	}
	return nil
}

func secret(n int) string {
	key := make([]byte, n)
	_, _ = rand.Read(key) // never fails
	return string(key)
}

// settle gives each user an account, which exists inside the bed only, and a home.
func (b *Bed) settle() error {
	root := b.root
	if root == "" {
		root = "/"
	}
	var passwd, group, shadow string
	for _, u := range people {
		shadow += u.Name + ":*:20000:0:99999:7:::\n" // no password; slurmd asks su for the environment of jobs that bring none
		passwd += fmt.Sprintf("%s:x:%d:%d::%s:/bin/bash\n", u.Name, u.UID, u.UID, b.Home(u))
		group += fmt.Sprintf("%s:x:%d:\n", u.Name, u.UID)
	}
	for file, more := range map[string]string{"passwd": passwd, "group": group, "shadow": shadow} {
		text, err := os.ReadFile(filepath.Join(root, "etc", file))
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if file == "shadow" {
			mode = 0o600
		}
		if err := os.WriteFile(b.path("etc", file), append(text, more...), mode); err != nil {
			return err
		}
	}
	for _, u := range people {
		if err := os.Mkdir(b.Home(u), 0o700); err != nil {
			return err
		}
		if err := os.Chown(b.Home(u), u.UID, u.UID); err != nil {
			return err
		}
	}
	return nil
}

func (b *Bed) hosts() string {
	text := "127.0.0.1 localhost\n"
	for n := range Nodes + 1 {
		m := newMachine(b, n)
		text += m.Addr + " " + m.Name + "\n"
	}
	return text
}

// slurmTime writes a duration as slurm.conf takes it.
func slurmTime(d time.Duration) string {
	s := int(d.Seconds())
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}
