package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/goccy/go-yaml"
	"github.com/urfave/cli/v2"

	"github.com/penstock/penstock/jobspecs"
)

// setting is one value that may come from a flag, the environment, a configuration file, or a default, in this order.
type setting struct {
	Key     string // in configuration files, dotted
	Flag    string
	Usage   string
	Default func(std IO) string
	Bool    bool
}

// Env is the setting's environment variable.
func (s setting) Env() string { return envName(s.Flag) }

func envName(flag string) string {
	return "PENSTOCK_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

var settings = []setting{
	{Key: "stateDir", Flag: "state-dir", Usage: "folder of the controller's state, on a filesystem that the nodes share", Default: defaultStateDir},
	{Key: "slurmJob", Flag: "slurm-job", Usage: "ID of the Slurm job in which controller and gateway run (penstock render FILE | sbatch), instead of --state-dir", Default: fixed("")},
	{Key: "runtimeDir", Flag: "runtime-dir", Usage: "node-local folder for sockets and locks", Default: defaultRuntimeDir},
	{Key: "log.level", Flag: "log-level", Usage: "debug, info, warn or error", Default: fixed("info")},
	{Key: "log.format", Flag: "log-format", Usage: "auto, console or json", Default: fixed("auto")},
	{Key: "json", Flag: "json", Usage: "print data and errors as JSON", Default: fixed("false"), Bool: true},
	{Key: "noColor", Flag: "no-color", Usage: "never colour output", Default: fixed("false"), Bool: true},
	{Key: "controller.listen", Flag: "listen", Usage: "host:port for agents and gateways (mTLS); auto: every interface with Slurm, else loopback", Default: fixed("auto")},
	{Key: "controller.advertise", Flag: "advertise", Usage: "host name or address under which nodes reach the controller", Default: fixed("")},
	{Key: "gateway.listen", Flag: "gateway-listen", Usage: "host:port for clients; beyond loopback TLS is on", Default: fixed("127.0.0.1:0")},
	{Key: "gateway.tls", Flag: "tls", Usage: "TLS for clients on loopback too", Default: fixed("false"), Bool: true},
	{Key: "gateway.advertise", Flag: "gateway-advertise", Usage: "host name under which clients reach the gateway", Default: fixed("")},
	{Key: "gateway.route", Flag: "route", Usage: "how a replica is chosen: kv, or to compare: round-robin, random, least-loaded, dynamo", Default: fixed("kv")},
	{Key: "slurm.controllerSbatch", Flag: "controller-sbatch", Usage: "options of sbatch for a controller in a job, such as \"--partition=cpu --time=7-0\"", Default: fixed("")},
	{Key: "slurm.use", Flag: "slurm", Usage: "auto (where this host belongs to a cluster), on, off, or slurmrestd at rest:unix:PATH or rest:https://HOST:PORT", Default: fixed("auto")},
	{Key: "slurm.tokenFile", Flag: "slurm-token-file", Usage: "a 0600 file with the JSON web token for slurmrestd", Default: fixed("")},
	{Key: "gateway.agents", Flag: "agents-listen", Usage: "host:port for agents that a gateway cannot dial (mTLS); off, or auto: every interface unless the controller is on loopback", Default: fixed("auto")},
	{Key: "network.reach", Flag: "reach", Usage: "who dials whom: direct (gateways dial agents), reverse (agents dial gateways), auto (reverse where direct fails)", Default: fixed("auto")},
	{Key: "nomad.use", Flag: "nomad", Usage: "auto (where NOMAD_ADDR is set), on or off; NOMAD_ADDR and its like say where Nomad is", Default: fixed("auto")},
	{Key: "nomad.tokenFile", Flag: "nomad-token-file", Usage: "file (0600) with the ACL token for Nomad; default: $NOMAD_TOKEN", Default: fixed("")},
	{Key: "nomad.program", Flag: "nomad-program", Usage: "path of this program on Nomad's clients, or in nomad.image; default: its path here", Default: fixed("")},
	{Key: "nomad.maxKillTimeout", Flag: "nomad-max-kill-timeout", Usage: "max_kill_timeout of Nomad's clients", Default: fixed("30s")},
	{Key: "local.nodes", Flag: "local-nodes", Usage: "logical nodes of this machine: NAME:GPUS,NAME:GPUS", Default: fixed("")},
}

func fixed(v string) func(IO) string { return func(IO) string { return v } }

func defaultStateDir(std IO) string {
	if d := std.Getenv("XDG_STATE_HOME"); d != "" {
		return filepath.Join(d, "penstock")
	}
	return filepath.Join(std.Getenv("HOME"), ".local", "state", "penstock")
}

func defaultRuntimeDir(std IO) string {
	if d := std.Getenv("XDG_RUNTIME_DIR"); d != "" {
		return filepath.Join(d, "penstock")
	}
	return filepath.Join(os.TempDir(), "penstock-"+strconv.Itoa(os.Getuid()))
}

// globalCategory sets the flags that are on every command apart in help.
const globalCategory = "global"

// globalFlags are on every command; each also has its PENSTOCK_ variable and its key in configuration files.
func globalFlags() []cli.Flag {
	var out []cli.Flag
	for _, s := range settings {
		if strings.Contains(s.Key, ".") && !strings.HasPrefix(s.Key, "log.") {
			continue // belongs to the roles that listen
		}
		out = append(out, s.flag(globalCategory))
	}
	return out
}

func (s setting) flag(category string) cli.Flag {
	if s.Bool {
		return &cli.BoolFlag{Name: s.Flag, Usage: s.Usage, Category: category}
	}
	return &cli.StringFlag{Name: s.Flag, Usage: s.Usage, Category: category}
}

// roleFlags are the settings of commands that listen or place.
func roleFlags(keys ...string) []cli.Flag {
	var out []cli.Flag
	for _, s := range settings {
		if slices.Contains(keys, s.Key) {
			out = append(out, s.flag(""))
		}
	}
	return out
}

// value is a setting's value and where it came from.
type value struct {
	Key, Value, Origin string
}

// resolved holds all settings of one invocation.
type resolved struct {
	values []value
}

func (r resolved) get(key string) string {
	for _, v := range r.values {
		if v.Key == key {
			return v.Value
		}
	}
	panic("no setting " + key)
}

// origin says where a setting's value is from.
func (r resolved) origin(key string) string {
	for _, v := range r.values {
		if v.Key == key {
			return v.Origin
		}
	}
	panic("no setting " + key)
}

func (r resolved) is(key string) bool { return r.get(key) == "true" }

// configFiles are the files that may set something, strongest first: project, user, site.
func configFiles(std IO) []string {
	user := std.Getenv("XDG_CONFIG_HOME")
	if user == "" {
		user = filepath.Join(std.Getenv("HOME"), ".config")
	}
	site := std.Getenv("PENSTOCK_SITE_FILE")
	if site == "" {
		site = "/etc/penstock/site.yaml"
	}
	return []string{filepath.Join(std.Dir, ".penstock.yaml"), filepath.Join(user, "penstock", "config.yaml"), site}
}

// resolve finds every setting's value: flag > environment > project file > user file > site file > default.
func resolve(c *cli.Context, std IO) (resolved, error) {
	var files []map[string]string
	names := configFiles(std)
	if err := checkProjectFile(names[0]); err != nil {
		return resolved{}, err
	}
	for _, name := range names {
		m, err := readConfig(name)
		if err != nil {
			return resolved{}, err
		}
		files = append(files, m)
	}
	var out resolved
	for _, s := range settings {
		v := s.find(c, std, names, files)
		if s.Bool {
			b, err := strconv.ParseBool(v.Value)
			if err != nil {
				return resolved{}, usageError("%s: %q is neither true nor false", v.Origin, v.Value)
			}
			v.Value = strconv.FormatBool(b)
		}
		out.values = append(out.values, v)
	}
	return out, nil
}

func (s setting) find(c *cli.Context, std IO, names []string, files []map[string]string) value {
	if c != nil && c.IsSet(s.Flag) {
		v := c.String(s.Flag)
		if s.Bool {
			v = strconv.FormatBool(c.Bool(s.Flag))
		}
		return value{s.Key, v, "flag --" + s.Flag}
	}
	if v := std.Getenv(s.Env()); v != "" {
		return value{s.Key, v, "environment " + s.Env()}
	}
	for i, m := range files {
		if v, ok := m[s.Key]; ok {
			return value{s.Key, v, "file " + names[i]}
		}
	}
	return value{s.Key, s.Default(std), "default"}
}

// checkProjectFile refuses a project file that somebody else could have put where this user happens to work, such as in
// /tmp: settings say where the state is and who may connect.
func checkProjectFile(name string) error {
	info, err := os.Lstat(name)
	if os.IsNotExist(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	uid := -1
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		uid = int(st.Uid)
	}
	hint := "copy what you want of it into a file of your own, or work in another folder"
	switch mode := info.Mode(); {
	case uid != os.Geteuid() && uid != 0:
		return fail(ExitError, hint, "%s belongs to uid %d and not to you: settings of others are not taken", name, uid)
	case mode&os.ModeSymlink == 0 && !mode.IsRegular():
		return fail(ExitError, hint, "%s is no file", name)
	case mode.IsRegular() && mode.Perm()&0o002 != 0:
		return fail(ExitError, "run: chmod o-w "+name, "%s can be written by everybody (mode %04o)", name, mode.Perm())
	}
	return nil
}

// readConfig reads one configuration file into dotted keys. A missing file is empty; an unknown key is an error that
// names the file and the nearest key.
func readConfig(name string) (map[string]string, error) {
	text, err := os.ReadFile(name)
	if os.IsNotExist(err) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	var doc map[string]any
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("read configuration %s: %s", name, yaml.FormatError(err, false, true))
	}
	out := map[string]string{}
	flatten("", doc, out)
	var known []string
	for _, s := range settings {
		known = append(known, s.Key)
	}
	for k := range out {
		if slices.Contains(known, k) {
			continue
		}
		hint := "`penstock config view --origin` lists all keys"
		if near := jobspecs.Nearest(k, known); near != "" {
			hint = "did you mean " + near + "?"
		}
		return nil, fail(ExitError, hint, "%s: unknown key %q", name, k)
	}
	return out, nil
}

func flatten(prefix string, m map[string]any, out map[string]string) {
	for k, v := range m {
		if sub, ok := v.(map[string]any); ok {
			flatten(prefix+k+".", sub, out)
			continue
		}
		out[prefix+k] = fmt.Sprint(v)
	}
}

// wants tells whether a setting that is true or false is true, for report, which also speaks of errors that came before any
// parsing.
func wants(key string, args []string, std IO) bool {
	s := settings[slices.IndexFunc(settings, func(s setting) bool { return s.Key == key })]
	for _, a := range args {
		if a == "--" {
			break
		}
		if name, v, inline := strings.Cut(strings.TrimLeft(a, "-"), "="); strings.HasPrefix(a, "-") && name == s.Flag {
			b, _ := strconv.ParseBool(v)
			return !inline || b
		}
	}
	set, err := resolve(nil, std)
	if err != nil {
		b, _ := strconv.ParseBool(std.Getenv(s.Env()))
		return b
	}
	return set.is(key)
}
