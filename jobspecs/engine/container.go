package engine

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock/penstock/jobspecs"
)

// contain wraps a command for the deployment's container runtime. Argv stays a plain list of words, so nothing needs a
// shell; variables are passed by name, so that no value, secret or not, shows in ps; and the engine's paths are the same
// inside and outside. Setup lines run outside, before the runtime.
func (s Start) contain(c Command, step words) (Command, error) {
	box := s.Deployment.Engine.Container
	names := s.passed(c)
	var wrapper words
	switch box.Runtime {
	case jobspecs.NoContainer, "":
	case jobspecs.Apptainer:
		wrapper = s.apptainer(box)
	case jobspecs.Enroot:
		c.Env["NVIDIA_VISIBLE_DEVICES"] = s.nvidiaDevices()
		wrapper = s.enroot(box, append(names, "NVIDIA_VISIBLE_DEVICES"))
	case jobspecs.Podman:
		wrapper = s.podman(box, names, c.Argv[0])
		c.Argv = c.Argv[1:]
	case jobspecs.Pyxis:
		if s.Deployment.Cluster != jobspecs.SlurmCluster {
			return Command{}, fmt.Errorf("engine.container.runtime: pyxis is a part of Slurm and can't run under cluster %s", s.Deployment.Cluster)
		}
		wrapper = s.pyxis(box, names, step)
		if ids, ok := visible(s.GPUs); ok && s.usesGPUs() && len(step) == 0 { // Slurm shows a step all cards that the job has on the node
			wrapper.add("env", "CUDA_VISIBLE_DEVICES="+ids)
		}
		step = nil
	default:
		return Command{}, fmt.Errorf("engine.container.runtime: %q is not known", box.Runtime)
	}
	c.Argv = slices.Concat(step, wrapper, c.Argv)
	return c, nil
}

// passed lists the variables that the engine needs inside: its own, its key, and the marks by which the agent finds
// every process of the run again.
func (s Start) passed(c Command) []string {
	names := slices.Sorted(maps.Keys(c.Env))
	if c.KeyEnv != "" {
		names = append(names, c.KeyEnv)
	}
	if s.Deployment.Engine.Kind == jobspecs.Sim && s.Nodes > 1 {
		names = append(names, RanksSecretEnv)
	}
	return append(names, "PENSTOCK_LAUNCH", "PENSTOCK_RUN")
}

// bind is one folder or file that is the same inside the container.
type bind struct {
	from, to string
	readOnly bool
}

// binds lists what the engine must see, then what the user names. What lies in a writable folder of the list already is
// left out.
func (s Start) binds() []bind {
	var all []bind
	add := func(p string, readOnly bool) {
		if p == "" || slices.ContainsFunc(all, func(b bind) bool { return !b.readOnly && within(b.to, p) || b.to == p }) {
			return
		}
		all = append(all, bind{p, p, readOnly})
	}
	add(s.Dir, false)
	if s.Socket != "" {
		add(path.Dir(s.Socket), false)
	}
	for _, endpoint := range []string{s.EventsEndpoint, s.EventsReplay} {
		if p, ok := strings.CutPrefix(endpoint, "ipc://"); ok {
			add(path.Dir(p), false)
		}
	}
	add(s.KV.Folder, false)
	add(s.KeyFile, true)
	add(s.Deployment.Model.Path, true)
	switch {
	case s.Deployment.Engine.Kind != jobspecs.Sim:
		for _, a := range s.Deployment.Model.Adapters {
			add(a.Path, true)
		}
	case len(s.Deployment.Engine.Command) == 0:
		add(s.Self, true) // its adapters are names only
	}
	for _, m := range s.Deployment.Engine.Container.Mounts {
		parts := strings.Split(m, ":")
		all = append(all, bind{parts[0], parts[1], len(parts) > 2 && parts[2] == "ro"})
	}
	return all
}

func within(folder, p string) bool {
	return strings.HasPrefix(p, strings.TrimSuffix(folder, "/")+"/")
}

// flags writes the binds as flag SRC:DST and, where read only, a suffix.
func flags(flag, suffix string, binds []bind) words {
	var w words
	for _, b := range binds {
		spec := b.from + ":" + b.to
		if b.readOnly {
			spec += suffix
		}
		w.add(flag, spec)
	}
	return w
}

// apptainer passes the environment on by itself.
func (s Start) apptainer(box jobspecs.Container) words {
	w := words{"apptainer", "exec"}
	if s.usesGPUs() {
		w.add("--nv")
	}
	w.add("--pwd", s.Dir)
	w.add(flags("--bind", ":ro", s.binds())...)
	return append(w, box.Image)
}

// enroot passes only what is named, and takes mounts as the fields of an fstab line.
func (s Start) enroot(box jobspecs.Container, names []string) words {
	w := words{"enroot", "start"}
	for _, name := range names {
		w.add("--env", name)
	}
	for _, b := range s.binds() {
		options := "x-create=auto,rbind"
		if b.readOnly {
			options += ",ro"
		}
		w.add("--mount", b.from+":"+b.to+":none:"+options)
	}
	return append(w, box.Image)
}

// podman runs without root, as the user, in the host's network, and without the image's entrypoint.
func (s Start) podman(box jobspecs.Container, names []string, program string) words {
	w := words{"podman", "run", "--rm", "--network", "host", "--ipc", "host", "--userns", "keep-id", "--security-opt", "label=disable"}
	for _, id := range s.cards() {
		w.add("--device", "nvidia.com/gpu="+id)
	}
	for _, name := range names {
		w.add("--env", name)
	}
	w.add(flags("--volume", ":ro", s.binds())...)
	return append(w, "--workdir", s.Dir, "--entrypoint", program, box.Image)
}

// cards names the devices of the container device interface.
func (s Start) cards() []string {
	if !s.usesGPUs() {
		return nil
	}
	if _, ok := visible(s.GPUs); ok {
		return s.GPUs
	}
	return []string{"all"}
}

func (s Start) nvidiaDevices() string {
	if cards := s.cards(); len(cards) > 0 {
		return strings.Join(cards, ",")
	}
	return "void"
}

// step is the srun of one rank: on its node, with the environment and all cards of the agent's job, whatever the job's own
// options were.
func (s Start) step() words {
	where := "--relative=" + strconv.Itoa(s.Rank)
	if s.StepNode != "" {
		where = "--nodelist=" + s.StepNode
	}
	step := words{"srun", "--overlap", "--nodes=1", "--ntasks=1", where}
	if cpus := s.role().CPUs; cpus > 0 {
		step.add("--cpus-per-task=" + strconv.Itoa(cpus))
	}
	return append(step, "--export=ALL", "--gpu-bind=none", "--kill-on-bad-exit=1")
}

// pyxis is srun with a container: as a step of the agent's own job, on this rank's node, unless the engine brings a step.
func (s Start) pyxis(box jobspecs.Container, names []string, step words) words {
	if len(step) == 0 {
		step = s.step()
	}
	var mounts []string
	for _, b := range s.binds() {
		spec := b.from + ":" + b.to
		if b.readOnly {
			spec += ":ro"
		}
		mounts = append(mounts, spec)
	}
	return append(step, "--container-image="+box.Image, "--container-mounts="+strings.Join(mounts, ","),
		"--container-env="+strings.Join(names, ","), "--container-workdir="+s.Dir, "--no-container-entrypoint")
}
