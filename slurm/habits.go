package slurm

import (
	"fmt"
	"slices"
	"strings"

	"github.com/penstock/penstock/jobspecs"
)

// Habits fills what a deployment's slurm section leaves open with what the user's shell tells sbatch (SBATCH_ACCOUNT and others), so
// that it stands in the revision and does not depend on any later shell. used says what was taken, ignored which variables were not,
// and why. d itself stays as it is.
func Habits(d jobspecs.Deployment, environ []string) (filled jobspecs.Deployment, used, ignored []string) {
	s := d.Slurm
	fields := map[string]struct {
		key   string
		value *string
	}{
		"SBATCH_ACCOUNT": {"account", &s.Account}, "SBATCH_PARTITION": {"partition", &s.Partition}, "SBATCH_QOS": {"qos", &s.QOS},
		"SBATCH_CONSTRAINT": {"constraint", &s.Constraint}, "SBATCH_RESERVATION": {"reservation", &s.Reservation},
	}
	sorted := slices.Clone(environ)
	slices.Sort(sorted)
	for _, entry := range sorted {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, "SBATCH_") || value == "" {
			continue
		}
		field, ok := fields[name]
		switch {
		case !ok:
			ignored = append(ignored, name+" is not heeded: what is not in the file would differ from one shell to the next; say it in slurm.time, or in slurm.sbatch")
		case strings.ContainsAny(value, "\n\r\x00"):
			ignored = append(ignored, name+" is not heeded: it is no value on one line")
		case *field.value == "":
			*field.value = value
			used = append(used, fmt.Sprintf("slurm.%s: %s, from %s", field.key, value, name))
		case *field.value != value:
			ignored = append(ignored, fmt.Sprintf("%s is not heeded: the file says slurm.%s: %s", name, field.key, *field.value))
		}
	}
	d.Slurm = s
	return d, used, ignored
}
