package sim

import "net/http"

type modelList struct {
	Object string      `json:"object"`
	Data   []modelCard `json:"data"`
}

type modelCard struct {
	ID          string   `json:"id"`
	Object      string   `json:"object"`
	Created     int64    `json:"created"`
	OwnedBy     string   `json:"owned_by"`
	Root        string   `json:"root"`
	Parent      *string  `json:"parent"`
	MaxModelLen *int     `json:"max_model_len"`
	Permission  []string `json:"permission"`
}

// models is GET /v1/models: the model under each of its names, and its adapters.
func (s *Server) models(w http.ResponseWriter, _ *http.Request) {
	out := modelList{Object: "list"}
	names := s.opts.servedNames()
	for _, n := range names {
		out.Data = append(out.Data, modelCard{ID: n, Root: s.opts.Model, MaxModelLen: &s.opts.MaxModelLen})
	}
	for _, l := range s.opts.LoRAModules {
		out.Data = append(out.Data, modelCard{ID: l.Name, Root: l.Path, Parent: &names[0]})
	}
	for i := range out.Data {
		m := &out.Data[i]
		m.Object, m.OwnedBy, m.Created, m.Permission = "model", "vllm", s.born.Unix(), []string{}
	}
	answerValue(w, out)
}
