package cli

import (
	"os"
	"path/filepath"
	"strings"
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
	t.Parallel()
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
