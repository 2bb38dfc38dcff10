package server

import (
	"fmt"
	"strings"

	"github.com/penstock/penstock/scheduler/cluster"
	"github.com/penstock/penstock/scheduler/ledger"
)

// deployment finds a deployment by name or unique prefix.
func (s *Server) deployment(name string) (ledger.Deployment, error) {
	if d, ok := s.o.Ledger.Deployment(name); ok {
		return d, nil
	}
	var found []ledger.Deployment
	var names []string
	for _, d := range s.o.Ledger.Deployments() {
		names = append(names, d.Name)
		if name != "" && strings.HasPrefix(d.Name, name) {
			found = append(found, d)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return ledger.Deployment{}, fmt.Errorf("deployment %q is ambiguous: it could be %s or %s: %w", name, found[0].Name, found[1].Name, errInvalid)
	case len(names) == 0:
		return ledger.Deployment{}, fmt.Errorf("no deployment %q, nor any other: %w", name, errNotFound)
	}
	return ledger.Deployment{}, fmt.Errorf("no deployment %q; there are %s: %w", name, strings.Join(names, ", "), errNotFound)
}

// launches finds live launches by ROLE/INDEX, launch token, or unique prefix of one. Empty = all of the deployment.
func (s *Server) launches(d ledger.Deployment, replica string, ended bool) ([]cluster.Launch, error) {
	var all, exact, near []cluster.Launch
	for _, l := range s.o.Ledger.Launches() {
		if l.Deployment != d.Name || (l.Phase == cluster.Ended && !ended) {
			continue
		}
		all = append(all, l)
		switch name := fmt.Sprintf("%s/%d", l.Role, l.Index); {
		case string(l.ID) == replica, name == replica, l.Job != "" && l.Job == replica:
			exact = append(exact, l)
		case replica != "" && strings.HasPrefix(string(l.ID), replica):
			near = append(near, l)
		}
	}
	switch {
	case replica == "":
		return all, nil
	case len(exact) > 0:
		return exact, nil
	case len(near) == 1:
		return near, nil
	case len(near) > 1:
		return nil, fmt.Errorf("replica %q of %s is ambiguous: it could be %s or %s: %w", replica, d.Name, near[0].ID, near[1].ID, errInvalid)
	}
	return nil, fmt.Errorf("no replica %q of %s; `penstock status %s` lists them: %w", replica, d.Name, d.Name, errNotFound)
}
