package nomadtest

import (
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// self says what /v1/agent/self does, as far as clients read it.
func (s *Server) self(call) (any, uint64, error) {
	return api.AgentSelf{
		Config: map[string]any{"Datacenter": "dc1", "Region": "global", "Version": map[string]any{"Version": "1.6.3"}},
		Member: api.AgentMember{Name: "nomadtest.global", Status: "alive", Tags: map[string]string{"build": "1.6.3", "region": "global"}},
		Stats:  map[string]map[string]string{"nomad": {"leader": "true", "server": "true"}},
	}, s.index, nil
}

func (s *Server) health(call) (any, uint64, error) {
	return api.AgentHealthResponse{Server: &api.AgentHealth{Ok: true, Message: "ok"}}, s.index, nil
}

func (s *Server) leader(call) (any, uint64, error) { return "127.0.0.1:4647", s.index, nil }

func (s *Server) listNamespaces(call) (any, uint64, error) {
	list := []*api.Namespace{{Name: "default", Description: "Default shared namespace"}}
	for _, n := range s.opts.Namespaces {
		list = append(list, &api.Namespace{Name: n})
	}
	return list, s.index, nil
}

// search finds IDs by prefix.
func (s *Server) search(c call) (any, uint64, error) {
	var req struct{ Prefix, Context string }
	if err := c.read(&req); err != nil {
		return nil, 0, err
	}
	found := map[string][]string{}
	for k := range s.jobs {
		if c.in(k.namespace) && strings.HasPrefix(k.id, req.Prefix) {
			found["jobs"] = append(found["jobs"], k.id)
		}
	}
	for id, a := range s.allocs {
		if c.in(a.Namespace) && strings.HasPrefix(id, req.Prefix) {
			found["allocs"] = append(found["allocs"], id)
		}
	}
	for _, list := range found {
		slices.Sort(list)
	}
	return map[string]any{"Matches": found, "Truncations": map[string]bool{}}, s.index, nil
}
