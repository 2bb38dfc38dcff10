package jobspecs

import "strings"

// The task drivers that Penstock's agent can run under.
const (
	RawExec      = "raw_exec"
	Exec         = "exec"
	Docker       = "docker"
	PodmanDriver = "podman"
)

// TaskDriver is the driver of the tasks, with its default.
func (n Nomad) TaskDriver() string {
	if n.Driver == "" {
		return RawExec
	}
	return n.Driver
}

// InImage reports whether tasks run in an image.
func (n Nomad) InImage() bool { return n.TaskDriver() == Docker || n.TaskDriver() == PodmanDriver }

// nomad checks what the keys of the section must have to do with each other and with the rest of the file.
func (c *checker) nomad(d Deployment) {
	n := d.Nomad
	if !c.clean("nomad.driver", "nomad.image", "nomad.mounts", "nomad.user") {
		return
	}
	switch {
	case n.InImage() && n.Image == "":
		c.addf("nomad.image", "name an image that holds penstock's program and the engine", "is missing, and driver %s runs nothing without one", n.Driver)
	case !n.InImage() && n.Image != "":
		c.addf("nomad.image", "use driver: docker or podman; engine.container runs the engine alone in an image", "driver %s runs no image", n.TaskDriver())
	case !n.InImage() && len(n.Mounts) > 0:
		c.addf("nomad.mounts", "use driver: docker or podman", "driver %s mounts nothing", n.TaskDriver())
	case !n.InImage() && n.User != "":
		c.addf("nomad.user", "use driver: docker or podman", "driver %s runs tasks as its own user", n.TaskDriver())
	case n.InImage() && d.Engine.Container.Runtime != NoContainer && c.clean("engine.container"):
		c.addf("engine.container.runtime", "leave one of them out", "the task runs in nomad.image already")
	}
	for i, k := range n.Constraints {
		path := place{path: "nomad.constraints"}.item(i).path
		unary := strings.HasPrefix(k.Operator, "is_")
		if unary != (k.Value == "") && c.clean(path) {
			c.addf(path+".value", "is_set and is_not_set take none, all others one", "does not go with operator %s", quote(orEqual(k.Operator)))
		}
	}
}

func orEqual(operator string) string {
	if operator == "" {
		return "="
	}
	return operator
}
