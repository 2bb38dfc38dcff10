package nomadtest

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/api"
)

func (s *Server) listVariables(c call) (any, uint64, error) {
	list := []*api.VariableMetadata{}
	for k, v := range s.variables {
		if c.in(k.namespace) && strings.HasPrefix(k.id, c.URL.Query().Get("prefix")) {
			list = append(list, v.Metadata())
		}
	}
	slices.SortFunc(list, func(a, b *api.VariableMetadata) int { return strings.Compare(a.Path, b.Path) })
	return list, s.newest(tableVariables), nil
}

func (s *Server) readVariable(c call) (any, uint64, error) {
	v := s.variables[key{c.namespace, c.PathValue("path")}]
	if v == nil {
		return nil, 0, refuse(http.StatusNotFound, "variable not found")
	}
	return v, v.ModifyIndex, nil
}

// conflict compares cas=N; 0 = the variable must not be there.
func (s *Server) conflict(c call, k key) error {
	text := c.URL.Query().Get("cas")
	if text == "" {
		return nil
	}
	want, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return refuse(http.StatusBadRequest, "can not parse cas: %v", err)
	}
	v := s.variables[k]
	switch {
	case v == nil && want == 0 || v != nil && v.ModifyIndex == want:
		return nil
	case v == nil:
		v = &api.Variable{Namespace: k.namespace, Path: k.id}
	}
	return &refusal{status: http.StatusConflict, text: "cas error", body: v}
}

func (s *Server) putVariable(c call) (any, uint64, error) {
	var v api.Variable
	if err := c.read(&v); err != nil {
		return nil, 0, err
	}
	k := key{c.namespace, c.PathValue("path")}
	if err := s.conflict(c, k); err != nil {
		return nil, 0, err
	}
	v.Namespace, v.Path = k.namespace, k.id
	v.ModifyIndex = s.touch(tableVariables)
	v.CreateIndex, v.CreateTime, v.ModifyTime = v.ModifyIndex, now(), now()
	if old := s.variables[k]; old != nil {
		v.CreateIndex, v.CreateTime = old.CreateIndex, old.CreateTime
	}
	s.variables[k] = &v
	s.rendered(k)
	return v, v.ModifyIndex, nil
}

func (s *Server) deleteVariable(c call) (any, uint64, error) {
	k := key{c.namespace, c.PathValue("path")}
	if err := s.conflict(c, k); err != nil {
		return nil, 0, err
	}
	delete(s.variables, k)
	return nil, s.touch(tableVariables), nil
}
