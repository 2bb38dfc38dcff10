package resp

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/storetest"
)

// tool finds a program of Debian's redis-tools.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skip(name + " is not installed: tests/needs.sh does that")
	}
	return path
}

// TestRedisCLI: what people have at hand works: values with every byte, counts, a login, and its refusal.
func TestRedisCLI(t *testing.T) {
	t.Parallel()
	cli := tool(t, "redis-cli")
	path := open(t, storetest.NewShelf(0), nil)
	value := make([]byte, 300_000)
	for i := range value {
		value[i] = byte(i * 7)
	}
	try := func(in []byte, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), cli, append([]string{"-s", path, "--no-auth-warning"}, args...)...)
		cmd.Stdin = bytes.NewReader(in)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	in := []string{"--user", "user", "--pass", "pw"}
	for _, c := range []struct {
		args []string
		in   []byte
		want string
	}{
		{append(in, "-x", "SET", "k"), value, "OK\n"},
		{append(in, "EXISTS", "k", "none"), nil, "1\n"},
		{append(in, "STRLEN", "k"), nil, "300000\n"},
		{append(in, "GET", "k"), nil, string(value) + "\n"},
		{append(in, "-3", "GET", "none"), nil, "\n"},
		{append(in, "DEL", "k"), nil, "1\n"},
		{append(in, "INFO"), nil, "# Server\r\nredis_version:7.2.0\r\nredis_mode:standalone\r\n"},
	} {
		if got, err := try(c.in, c.args...); got != c.want || err != nil {
			t.Errorf("%q: %.60q (%v), want %.60q", c.args, got, err, c.want)
		}
	}
	if got, _ := try(nil, "GET", "k"); !strings.Contains(got, "NOAUTH") {
		t.Errorf("without a login: %q", got)
	}
	if got, _ := try(nil, "--user", "user", "--pass", "no", "GET", "k"); !strings.Contains(got, "WRONGPASS") { // and is cut off
		t.Errorf("with a wrong password: %q", got)
	}
}

// TestRedisBenchmark: eight connections at once, with pipelines.
func TestRedisBenchmark(t *testing.T) {
	t.Parallel()
	benchmark := tool(t, "redis-benchmark")
	s := storetest.NewShelf(0)
	path := open(t, s, func(o *Options) { o.Anonymous = new(kvstore.Space) })
	out, err := exec.CommandContext(t.Context(), benchmark, "-s", path, "-t", "set,get,ping_mbulk", "-n", "2000", "-d", "20000", "-c", "8", "-P", "4", "-r", "50", "-q").CombinedOutput()
	if err != nil || bytes.Count(out, []byte("requests per second")) < 3 || bytes.Contains(out, []byte("Error")) {
		t.Errorf("%v: %s", err, out)
	}
	if got := s.Stats(); got.Blocks == 0 || got.Blocks > 50 {
		t.Errorf("%+v", got)
	}
}
