package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/urfave/cli/v2"
)

// resolveIn runs a command that only resolves settings.
func resolveIn(t *testing.T, std IO, args ...string) (resolved, error) {
	t.Helper()
	var got resolved
	var err error
	app := &cli.App{Name: "t", Flags: globalFlags(), Action: func(c *cli.Context) error {
		got, err = resolve(c, std)
		return nil
	}}
	if e := app.Run(append([]string{"t"}, args...)); e != nil {
		t.Fatal(e)
	}
	return got, err
}

func TestStrongestSourceWins(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := map[string]string{"HOME": dir, "PENSTOCK_SITE_FILE": filepath.Join(dir, "site.yaml")}
	std := testIO(env)
	std.Dir = dir
	origin := func(args ...string) string {
		r, err := resolveIn(t, std, args...)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range r.values {
			if v.Key == "log.level" {
				return v.Value + " from " + strings.ReplaceAll(v.Origin, dir, "DIR")
			}
		}
		return ""
	}
	steps := []struct {
		add  func()
		args []string
		want string
	}{
		{func() {}, nil, "info from default"},
		{func() { write("site.yaml", "log: {level: warn}") }, nil, "warn from file DIR/site.yaml"},
		{func() { write(".config/penstock/config.yaml", "log: {level: error}") }, nil, "error from file DIR/.config/penstock/config.yaml"},
		{func() { write(".penstock.yaml", "log: {level: debug}") }, nil, "debug from file DIR/.penstock.yaml"},
		{func() { env["PENSTOCK_LOG_LEVEL"] = "trace" }, nil, "trace from environment PENSTOCK_LOG_LEVEL"},
		{func() {}, []string{"--log-level", "info"}, "info from flag --log-level"},
	}
	for _, s := range steps {
		s.add()
		if got := origin(s.args...); got != s.want {
			t.Errorf("got %q, want %q", got, s.want)
		}
	}
	write(".penstock.yaml", "log: {levle: debug}")
	if _, err := resolveIn(t, std); err == nil || !strings.Contains(err.Error(), "log.levle") {
		t.Errorf("an unknown key is no error: %v", err)
	} else if _, hint := classify(err); !strings.Contains(hint, "log.level") {
		t.Errorf("no nearest key in %q", hint)
	}
}

func TestProjectFileMustBeOwn(t *testing.T) {
	for _, c := range []struct {
		name  string
		root  bool
		setup func(file string) error
		says  string // empty = it is taken
	}{
		{"own", false, func(string) error { return nil }, ""},
		{"group may write", false, func(f string) error { return os.Chmod(f, 0o664) }, ""},
		{"all may write", false, func(f string) error { return os.Chmod(f, 0o646) }, "chmod o-w"},
		{"of another user", true, func(f string) error { return os.Chown(f, 4242, 4242) }, "belongs to uid 4242"},
		{"a link", false, func(f string) error { return errors.Join(os.Rename(f, f+"2"), os.Symlink(f+"2", f)) }, ""},
		{"a link of another user", true, func(f string) error {
			return errors.Join(os.Rename(f, f+"2"), os.Symlink(f+"2", f), os.Lchown(f, 4242, 4242))
		}, "belongs to uid 4242"},
		{"a pipe", false, func(f string) error { return errors.Join(os.Remove(f), syscall.Mkfifo(f, 0o600)) }, "no file"},
	} {
		if c.root && os.Geteuid() != 0 {
			continue // only root can give files to another user
		}
		std := testIO(map[string]string{"HOME": t.TempDir(), "PENSTOCK_SITE_FILE": "/nowhere"})
		std.Dir = t.TempDir()
		file := filepath.Join(std.Dir, ".penstock.yaml")
		if err := errors.Join(os.WriteFile(file, []byte("log: {level: debug}"), 0o600), c.setup(file)); err != nil {
			t.Fatal(err)
		}
		r, err := resolveIn(t, std)
		if c.says == "" && (err != nil || r.get("log.level") != "debug") {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.says == "" {
			continue
		}
		if _, hint := classify(err); err == nil || !strings.Contains(err.Error()+hint, c.says) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: got %v, wanted it to say %q and where", c.name, err, c.says)
		}
	}
}
