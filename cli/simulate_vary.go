package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock/penstock/jobspecs"
)

// variation is one --vary: a key of the deployment file, and the values that it takes one after the other.
type variation struct {
	path   string
	values []string
}

// variable are the keys of a deployment file that --vary knows, each with how a value gets into a deployment.
var variable = map[string]func(*jobspecs.Deployment, string) error{
	"roles.mixed.replicas":   replicasOf(jobspecs.Mixed),
	"roles.prefill.replicas": replicasOf(jobspecs.Prefill),
	"roles.decode.replicas":  replicasOf(jobspecs.Decode),
	"kv.host":                bytesInto(func(d *jobspecs.Deployment) *jobspecs.Bytes { return &d.KV.Host }),
	"kv.disk.size":           bytesInto(func(d *jobspecs.Deployment) *jobspecs.Bytes { return &d.KV.Disk.Size }),
	"kv.object.size": bytesInto(func(d *jobspecs.Deployment) *jobspecs.Bytes {
		object := jobspecs.KVObject{}
		if d.KV.Object != nil {
			object = *d.KV.Object
		}
		d.KV.Object = &object
		return &object.Size
	}),
}

func replicasOf(role jobspecs.RoleKind) func(*jobspecs.Deployment, string) error {
	return func(d *jobspecs.Deployment, value string) error {
		r, there := d.Roles[role]
		if !there {
			return fmt.Errorf("the deployment has no role %s", role)
		}
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 || n > 100_000 {
			return fmt.Errorf("%q is no number of replicas", value)
		}
		r.Replicas = n
		roles := map[jobspecs.RoleKind]jobspecs.Role{}
		for k, v := range d.Roles {
			roles[k] = v
		}
		roles[role] = r
		d.Roles = roles
		return nil
	}
}

func bytesInto(field func(*jobspecs.Deployment) *jobspecs.Bytes) func(*jobspecs.Deployment, string) error {
	return func(d *jobspecs.Deployment, value string) error {
		b, err := jobspecs.ParseBytes(value)
		if err == nil {
			*field(d) = b
		}
		return err
	}
}

// parseVariation reads PATH=A,B,C or PATH=FIRST..LAST.
func parseVariation(text string) (v variation, err error) {
	path, values, ok := strings.Cut(text, "=")
	if !ok || values == "" {
		return v, usageError("--vary %q: write KEY=VALUE,VALUE or KEY=FIRST..LAST, such as roles.mixed.replicas=1..8", text)
	}
	if variable[path] == nil {
		var known []string
		for k := range variable {
			known = append(known, k)
		}
		slices.Sort(known)
		return v, usageError("--vary %s: can vary %s", path, strings.Join(known, ", "))
	}
	v.path = path
	for part := range strings.SplitSeq(values, ",") {
		first, last, isRange := strings.Cut(part, "..")
		if !isRange {
			v.values = append(v.values, strings.TrimSpace(part))
			continue
		}
		a, err1 := strconv.Atoi(first)
		b, err2 := strconv.Atoi(last)
		if err1 != nil || err2 != nil || a > b || b-a > 1000 {
			return v, usageError("--vary %s: %q is no range of whole numbers", path, part)
		}
		for n := a; n <= b; n++ {
			v.values = append(v.values, strconv.Itoa(n))
		}
	}
	return v, nil
}

// variant is one deployment out of a grid.
type variant struct {
	jobspecs.Deployment
	values []string // one of each variation, in order
}

// maxVariants bounds a grid.
const maxVariants = 1000

// variants makes all combinations; the last variation changes fastest.
func variants(d jobspecs.Deployment, by []variation) ([]variant, error) {
	out := []variant{{Deployment: d}}
	for _, v := range by {
		var next []variant
		for _, from := range out {
			for _, value := range v.values {
				to := variant{from.Deployment, append(slices.Clone(from.values), value)}
				if err := variable[v.path](&to.Deployment, value); err != nil {
					return nil, usageError("--vary %s=%s: %v", v.path, value, err)
				}
				next = append(next, to)
			}
		}
		if out = next; len(out) > maxVariants {
			return nil, usageError("--vary: more than %d combinations", maxVariants)
		}
	}
	return out, nil
}
