package nomadtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/template"

	"github.com/hashicorp/nomad/api"
)

// command makes the process of a task, or nil where tasks are only marked. Its folders and templates are there afterwards.
func (s *Server) command(a *alloc, t *api.Task) (*exec.Cmd, error) {
	if s.opts.Marks {
		return nil, nil
	}
	base := filepath.Join(s.dir, a.ID)
	for _, d := range []string{"alloc/logs", "alloc/tmp", "alloc/data", t.Name + "/local", t.Name + "/secrets", t.Name + "/tmp"} {
		if err := os.MkdirAll(filepath.Join(base, d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(filepath.Join(base, t.Name, "secrets"), 0o700); err != nil {
		return nil, err
	}
	env := s.environment(a, t, base)
	if err := s.templates(a, t, base, env); err != nil {
		return nil, err
	}
	var config struct {
		Command string
		Args    []string
	}
	text, err := json.Marshal(t.Config)
	if err == nil {
		err = json.Unmarshal(text, &config)
	}
	if err != nil {
		return nil, fmt.Errorf("read the config of task %s: %w", t.Name, err)
	}
	for i, arg := range config.Args {
		config.Args[i] = a.node.expand(arg, env)
	}
	cmd := exec.Command(a.node.expand(config.Command, env), config.Args...)
	cmd.Dir = filepath.Join(base, t.Name)
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if cmd.Stdout, err = logFile(base, t.Name, "stdout"); err != nil {
		return nil, err
	}
	cmd.Stderr, err = logFile(base, t.Name, "stderr")
	return cmd, err
}

func logFile(base, task, stream string) (*os.File, error) {
	return os.OpenFile(filepath.Join(base, "alloc", "logs", task+"."+stream+".0"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
}

// environment is what a raw_exec task sees: the client's own and NOMAD_*.
func (s *Server) environment(a *alloc, t *api.Task, base string) map[string]string {
	env := map[string]string{}
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "LANG", "USER"} {
		if v, ok := os.LookupEnv(name); ok {
			env[name] = v
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.Copy(env, map[string]string{
		"NOMAD_ALLOC_ID": a.ID, "NOMAD_SHORT_ALLOC_ID": a.ID[:8], "NOMAD_ALLOC_NAME": a.Name, "NOMAD_ALLOC_INDEX": strconv.Itoa(a.number()),
		"NOMAD_JOB_ID": a.JobID, "NOMAD_JOB_NAME": *a.job.Name, "NOMAD_GROUP_NAME": a.TaskGroup, "NOMAD_TASK_NAME": t.Name,
		"NOMAD_NAMESPACE": a.Namespace, "NOMAD_REGION": "global", "NOMAD_DC": a.node.Datacenter,
		"NOMAD_ALLOC_DIR": filepath.Join(base, "alloc"), "NOMAD_TASK_DIR": filepath.Join(base, t.Name, "local"),
		"NOMAD_SECRETS_DIR": filepath.Join(base, t.Name, "secrets"), "NOMAD_CPU_LIMIT": strconv.Itoa(*t.Resources.CPU),
		"NOMAD_MEMORY_LIMIT": strconv.Itoa(*t.Resources.MemoryMB),
	})
	for _, p := range a.AllocatedResources.Shared.Ports {
		port := strconv.Itoa(p.Value)
		env["NOMAD_PORT_"+p.Label], env["NOMAD_HOST_PORT_"+p.Label] = port, port
		env["NOMAD_IP_"+p.Label], env["NOMAD_ADDR_"+p.Label] = p.HostIP, p.HostIP+":"+port
	}
	for _, meta := range []map[string]string{a.job.Meta, a.group().Meta, t.Meta} {
		for k, v := range meta {
			env["NOMAD_META_"+k], env["NOMAD_META_"+strings.ToUpper(k)] = v, v
		}
	}
	for _, d := range a.AllocatedResources.Tasks[t.Name].Devices {
		env["NVIDIA_VISIBLE_DEVICES"] = strings.Join(d.DeviceIDs, ",")
	}
	for k, v := range t.Env {
		env[k] = a.node.expand(v, env)
	}
	return env
}

// expand replaces ${NAME}, ${env["NAME"]} and what nodes have.
func (n *node) expand(text string, env map[string]string) string {
	text = n.interpolate(text)
	return regexp.MustCompile(`\$\{(?:env\["([^"]+)"\]|([A-Za-z0-9_]+))\}`).ReplaceAllStringFunc(text, func(m string) string {
		name := strings.TrimSuffix(strings.TrimPrefix(m[2:len(m)-1], `env["`), `"]`)
		return env[name]
	})
}

// rendered writes the templates of running tasks anew that read a variable, after it has changed. What else their change_mode
// asks for is not done. The lock is held.
func (s *Server) rendered(k key) {
	for _, a := range s.allocs {
		if a.Namespace != k.namespace || a.ClientStatus != api.AllocClientStatusRunning || s.opts.Marks {
			continue
		}
		for _, t := range a.group().Tasks {
			reads := func(tpl *api.Template) bool {
				return tpl.EmbeddedTmpl != nil && strings.Contains(*tpl.EmbeddedTmpl, k.id)
			}
			if slices.ContainsFunc(t.Templates, reads) && !s.closed {
				s.running.Go(func() {
					base := filepath.Join(s.dir, a.ID)
					_ = s.templates(a, t, base, s.environment(a, t, base)) // a client tries again for ever
				})
			}
		}
	}
}

// templates writes a task's template blocks. They know env, nomadVar and nomadVarExists.
func (s *Server) templates(a *alloc, t *api.Task, base string, env map[string]string) error {
	items := func(path string) map[string]string {
		s.mu.Lock()
		defer s.mu.Unlock()
		if v := s.variables[key{a.Namespace, path}]; v != nil {
			return maps.Clone(map[string]string(v.Items))
		}
		return nil
	}
	funcs := template.FuncMap{
		"env": func(name string) string { return env[name] },
		"nomadVar": func(path string) (map[string]string, error) {
			if got := items(path); got != nil {
				return got, nil
			}
			return nil, fmt.Errorf("missing variable %s", path)
		},
		"nomadVarExists": func(path string) bool { return items(path) != nil },
	}
	for _, tpl := range t.Templates {
		if tpl.EmbeddedTmpl == nil || tpl.DestPath == nil {
			continue
		}
		parsed, err := template.New("t").Funcs(funcs).Parse(*tpl.EmbeddedTmpl)
		if err != nil {
			return fmt.Errorf("parse the template of %s: %w", *tpl.DestPath, err)
		}
		var b strings.Builder
		if err := parsed.Execute(&b, nil); err != nil {
			return fmt.Errorf("template of %s: %w", *tpl.DestPath, err)
		}
		mode, err := strconv.ParseUint(stringOr(tpl.Perms, "0644"), 8, 32)
		if err != nil {
			return fmt.Errorf("mode of %s: %w", *tpl.DestPath, err)
		}
		path := filepath.Join(base, t.Name, a.node.expand(*tpl.DestPath, map[string]string{"NOMAD_SECRETS_DIR": "secrets", "NOMAD_TASK_DIR": "local"}))
		if err := replaceFile(path, []byte(b.String()), os.FileMode(mode)); err != nil {
			return err
		}
		if isTrue(tpl.Envvars) {
			for line := range strings.Lines(b.String()) {
				if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
					env[k] = strings.Trim(v, `"`)
				}
			}
		}
	}
	return nil
}

// replaceFile writes a file whole, as clients do.
func replaceFile(path string, content []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Chmod(mode), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func stringOr(s *string, other string) string {
	if s == nil || *s == "" {
		return other
	}
	return *s
}
