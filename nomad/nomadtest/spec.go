package nomadtest

import (
	"encoding/json"
	"reflect"
	"slices"

	"github.com/hashicorp/nomad/api"
)

func ptr[T any](v T) *T { return &v }

func isTrue(b *bool) bool { return b != nil && *b }

// clone copies by way of JSON, so that nothing is shared.
func clone[T any](v *T) *T {
	text, err := json.Marshal(v)
	out := new(T)
	if err == nil {
		err = json.Unmarshal(text, out)
	}
	if err != nil {
		panic("nomadtest: copy: " + err.Error()) // of a type that came in as JSON
	}
	return out
}

// changed says whether a job is another one than before, as a register sees it: apart from what the server sets.
func changed(old, spec *api.Job) bool {
	a, b := clone(old), clone(spec)
	for _, j := range []*api.Job{a, b} {
		j.Version, j.CreateIndex, j.ModifyIndex, j.JobModifyIndex = nil, nil, nil, nil
		j.Status, j.StatusDescription, j.SubmitTime, j.Stable = nil, nil, nil, nil
		j.NomadTokenID, j.VersionTag = nil, nil
		if j.Stop == nil {
			j.Stop = ptr(false)
		}
	}
	return !reflect.DeepEqual(a, b)
}

// destructive says whether tasks of the group must be started anew for the later version. Counts, policies, constraints and
// services are taken over in place.
func destructive(old, spec *api.Job, group string) bool {
	a, b := old.LookupTaskGroup(group), spec.LookupTaskGroup(group)
	if a == nil || b == nil || len(a.Tasks) != len(b.Tasks) {
		return true
	}
	if !same(a.Networks, b.Networks) || !same(a.EphemeralDisk, b.EphemeralDisk) || !same(a.Volumes, b.Volumes) ||
		!same(a.Meta, b.Meta) || !same(old.Meta, spec.Meta) {
		return true
	}
	for i, t := range a.Tasks {
		u := b.Tasks[i]
		if t.Name != u.Name || t.Driver != u.Driver || t.User != u.User || !same(t.Config, u.Config) || !same(t.Env, u.Env) ||
			!same(t.Templates, u.Templates) || !same(t.Artifacts, u.Artifacts) || !same(t.Meta, u.Meta) ||
			!same(t.Resources, u.Resources) || !same(t.VolumeMounts, u.VolumeMounts) || !same(t.Identity, u.Identity) {
			return true
		}
	}
	return false
}

// same compares two parts as JSON does, to which an empty map and none are the same.
func same(a, b any) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y) || empty(string(x)) && empty(string(y))
}

func empty(json string) bool { return json == "null" || json == "{}" || json == "[]" }

// scaled says whether a group of the job has a scaling policy.
func scaled(spec *api.Job) bool {
	return slices.ContainsFunc(spec.TaskGroups, func(g *api.TaskGroup) bool { return g.Scaling != nil })
}

func samePolicies(old, spec *api.Job) bool {
	return !slices.ContainsFunc(spec.TaskGroups, func(g *api.TaskGroup) bool {
		was := old.LookupTaskGroup(*g.Name)
		return was == nil || !same(was.Scaling, g.Scaling)
	})
}
