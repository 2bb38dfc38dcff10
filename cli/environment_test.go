package cli

import (
	"context"
	"encoding/json"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
)

// everyCommand lists all commands that do something, with their path.
func everyCommand(app *cli.App) map[string]*cli.Command {
	out := map[string]*cli.Command{}
	var walk func(list []*cli.Command, path string)
	walk = func(list []*cli.Command, path string) {
		for _, c := range list {
			if len(c.Subcommands) > 0 {
				walk(c.Subcommands, path+c.Name+" ")
			} else {
				out[path+c.Name] = c
			}
		}
	}
	walk(app.Commands, "")
	return out
}

// sample is a value that a flag does not have by default, as a variable holds it and as a command sees it.
func sample(t *testing.T, f cli.Flag) (text string, value any) {
	t.Helper()
	switch f.(type) {
	case *cli.BoolFlag:
		return "true", true
	case *cli.StringFlag:
		return "some,text", "some,text"
	case *cli.StringSliceFlag:
		return "a,b=c", []string{"a", "b=c"}
	case *cli.DurationFlag:
		return "1h30m", 90 * time.Minute
	case *cli.IntFlag:
		return "-42", -42
	case *cli.UintFlag:
		return "42", uint(42)
	case *cli.Uint64Flag:
		return "42", uint64(42)
	case *cli.Float64Flag:
		return "0.5", 0.5
	}
	t.Fatalf("--%s: no sample for a %T", f.Names()[0], f)
	return "", nil
}

// seenValue is what a command sees of a flag.
func seenValue(c *cli.Context, name string) any {
	if v, ok := c.Value(name).(cli.StringSlice); ok {
		return v.Value()
	}
	return c.Value(name)
}

// TestEveryFlagHasAVariable sets each flag of each command by its variable, and then by the command line against it.
func TestEveryFlagHasAVariable(t *testing.T) {
	t.Parallel()
	flags := 0
	for path := range everyCommand(newApp(testIO(nil))) {
		for i := range everyCommand(newApp(testIO(nil)))[path].Flags {
			flags++
			byVariable(t, path, i)
		}
	}
	if flags < 200 {
		t.Errorf("%d flags in all", flags)
	}
}

func byVariable(t *testing.T, path string, i int) {
	t.Helper()
	env := map[string]string{}
	std := testIO(env)
	std.Dir = t.TempDir()
	seen := func(args ...string) (any, value) {
		app := newApp(std)
		cmd := everyCommand(app)[path]
		name := cmd.Flags[i].Names()[0]
		var got any
		var setting value
		cmd.Action = func(c *cli.Context) error {
			got = seenValue(c, name)
			set, err := resolve(c, std)
			for j, s := range settings {
				if s.Flag == name && err == nil {
					setting = set.values[j]
				}
			}
			return err
		}
		ordered, err := orderArguments(app, append(append([]string{"penstock"}, strings.Fields(path)...), args...), std.Getenv)
		if err == nil {
			err = app.RunContext(context.Background(), ordered)
		}
		if err != nil {
			t.Errorf("%s %v with %v: %v", path, args, env, err)
		}
		return got, setting
	}
	f := everyCommand(newApp(std))[path].Flags[i]
	name := f.Names()[0]
	text, want := sample(t, f)
	before, _ := seen()
	if reflect.DeepEqual(before, want) {
		t.Errorf("%s --%s: the sample is its default", path, name)
	}
	env["PENSTOCK_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))] = text
	if got, setting := seen(); isSetting(name) {
		if setting.Value != text || !strings.HasPrefix(setting.Origin, "environment PENSTOCK_") {
			t.Errorf("%s --%s: %+v", path, name, setting)
		}
	} else if !reflect.DeepEqual(got, want) {
		t.Errorf("%s --%s by its variable: %v, want %v", path, name, got, want)
	}
	if _, ok := f.(*cli.BoolFlag); ok {
		if got, _ := seen("--" + name + "=false"); got != false {
			t.Errorf("%s --%s=false against its variable: %v", path, name, got)
		}
		return
	}
	if _, ok := f.(*cli.StringFlag); ok {
		if got, _ := seen("--"+name, "other"); got != "other" {
			t.Errorf("%s --%s other against its variable: %v", path, name, got)
		}
	}
}

// TestBadVariables: what does not fit is a mistake that names the variable; one for another command is none.
func TestBadVariables(t *testing.T) {
	t.Parallel()
	for variable, line := range map[string]string{
		"PENSTOCK_DETACH": "run f.yaml", "PENSTOCK_TIMEOUT": "wait demo", "PENSTOCK_TAIL": "logs demo", "PENSTOCK_RANK": "agent --join x",
		"PENSTOCK_SPEEDUP": "engine sim", "PENSTOCK_TPM": "key create me", "PENSTOCK_JSON": "status", "PENSTOCK_NO_COLOR": "status",
	} {
		tt := newTerminal(t, nil)
		tt.env[variable] = "perhaps"
		code, _, talk := tt.run(strings.Fields(line)...)
		if code != ExitUsage || !strings.Contains(talk, variable) || !strings.Contains(talk, "perhaps") {
			t.Errorf("%s: exit %d: %s", variable, code, talk)
		}
		if variable == "PENSTOCK_JSON" || variable == "PENSTOCK_NO_COLOR" {
			continue // they are for all commands
		}
		if code, _, talk := tt.run("schema"); code != 0 {
			t.Errorf("%s and a command that has no such flag: exit %d: %s", variable, code, talk)
		}
	}
}

// TestJSON: with --json each command prints one document (or one a line) with a schema and its version, and nothing else on
// stdout; where it fails, the document is the error.
func TestJSON(t *testing.T) {
	t.Parallel()
	f := everythingWorks()
	type call struct{ schema, line string }
	calls := map[string]call{ // how each command is called to succeed
		"run": {"run", "run f.yaml"}, "plan": {"plan", "plan f.yaml"}, "render": {"render", "render f.yaml"}, "status": {"status", "status"},
		"nodes": {"nodes", "nodes"}, "logs": {"log", "logs demo"}, "scale": {"scale", "scale demo mixed=1"}, "drain": {"drain", "drain demo mixed/0"},
		"stop": {"stop", "stop demo"}, "wait": {"wait", "wait demo"}, "endpoint": {"endpoint", "endpoint"}, "events": {"event", "events"}, "history": {"history", "history"},
		"key create": {"key", "key create me"}, "key list": {"keys", "key list"}, "key revoke": {"key_revoke", "key revoke me"}, "why": {"why", "why"},
		"simulate": {"simulation", "simulate f.yaml --trace trace.jsonl --seeds 1"},
		"schema":   {"schema", "schema"}, "config view": {"config", "config view"}, "completion": {"completion", "completion bash"},
		"doctor":  {"doctor", "doctor"}, // 1 where something is in the way
		"version": {"version", "version"}, "kv replay": {"kv_replay", "kv replay --trace trace.jsonl --blocks 30"},
		"kv stat": {"kv_stat", "kv stat demo"}, "kv ls": {"kv_block", "kv ls --disk kv --limit 1"}, "kv flush": {"kv_flush", "kv flush demo"},
		"kv warm": {"kv_warm", "kv warm demo"}, "kv verify": {"kv_verify", "kv verify --disk kv"}, "kv gc": {"kv_gc", "kv gc --disk kv --budget 1GiB"},
		"kv get":   {"kv_get", "kv get " + kvKey(1, 3).String() + " --disk kv --out block"},
		"kv bench": {"kv_bench", "kv bench --disk kv --size 4KiB --total 8KiB"},
	}
	servers := []string{"serve", "gateway", "agent", "engine sim", "local-job", "keeper"} // they print nothing but logs, and errors
	for path := range everyCommand(newApp(testIO(nil))) {
		c, ok := calls[path]
		if ok == slices.Contains(servers, path) {
			t.Errorf("%s: say here how it prints JSON", path)
		}
		tt := newTerminal(t, f)
		tt.write(t, "f.yaml", demoFile)
		tt.write(t, "trace.jsonl", chatTrace())
		if strings.HasPrefix(path, "kv ") {
			kvFolder(t, filepath.Join(tt.Dir, "kv"))
		}
		if ok {
			code, out, _ := tt.run(append(strings.Fields(c.line), "--json")...)
			document(t, path, out, "penstock."+c.schema+"/v1")
			if code != 0 && code != PlanChange {
				t.Errorf("%s: exit %d", path, code)
			}
		}
		code, out, talk := tt.run(append(strings.Fields(path), "--json", "--no-such-flag")...)
		doc := document(t, path, out, "penstock.error/v1")
		e, _ := doc["error"].(map[string]any)
		if code != ExitUsage || e["code"] != "usage" || e["exit"] != float64(ExitUsage) || e["message"] == "" || talk != "" {
			t.Errorf("%s: exit %d: %v, %s", path, code, doc, talk)
		}
	}
}

// document reads what must be one JSON document of a schema.
func document(t *testing.T, path, out, schema string) map[string]any {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal([]byte(out), &doc); err != nil || doc["schema"] != schema {
		t.Errorf("%s: %v, want one document of %s:\n%s", path, err, schema, out)
	}
	return doc
}

// TestJSONFromEverywhere: errors are JSON wherever the wish for it comes from, and a flag wins.
func TestJSONFromEverywhere(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args string
		env  string
		file string
		want bool
	}{
		{"status", "", "", false},
		{"status --json", "", "", true},
		{"--json status", "", "", true},
		{"status", "1", "", true},
		{"status", "", "json: true", true},
		{"status --json=false", "1", "", false},
		{"status --json=false", "", "json: true", false},
		{"status", "0", "json: true", false},
		{"status -- --json", "", "", false},
	} {
		tt := newTerminal(t, nil)
		tt.env["PENSTOCK_JSON"] = c.env
		if c.file != "" {
			tt.write(t, ".penstock.yaml", c.file)
		}
		_, out, _ := tt.run(strings.Fields(c.args)...)
		if strings.HasPrefix(out, "{") != c.want {
			t.Errorf("%+v: stdout %q", c, out)
		}
	}
}
