package sim

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
)

// maxBody bounds a request's body.
const maxBody = 64 << 20

// generateFields are the fields that completions and chat share. Fields that the simulation has no use for are ignored,
// as vLLM ignores unknown ones.
type generateFields struct {
	Model             string          `json:"model"`
	Stream            bool            `json:"stream"`
	StreamOptions     *streamOptions  `json:"stream_options"`
	N                 *int            `json:"n"`
	MaxTokens         *int            `json:"max_tokens"`
	MinTokens         int             `json:"min_tokens"`
	Temperature       *float64        `json:"temperature"`
	TopP              *float64        `json:"top_p"`
	Seed              *int64          `json:"seed"`
	PresencePenalty   *float64        `json:"presence_penalty"`
	FrequencyPenalty  *float64        `json:"frequency_penalty"`
	RepetitionPenalty *float64        `json:"repetition_penalty"`
	Stop              stringOrList    `json:"stop"`
	StopTokenIDs      []int           `json:"stop_token_ids"`
	IncludeStop       bool            `json:"include_stop_str_in_output"`
	SkipSpecial       *bool           `json:"skip_special_tokens"`
	IgnoreEOS         bool            `json:"ignore_eos"`
	ReturnTokenIDs    bool            `json:"return_token_ids"`
	TokensAsIDs       bool            `json:"return_tokens_as_token_ids"`
	CacheSalt         *string         `json:"cache_salt"`
	Priority          int             `json:"priority"`
	KVTransfer        *transferParams `json:"kv_transfer_params"`
	RequestID         string          `json:"request_id"`
	ResponseFormat    *responseFormat `json:"response_format"`
}

type streamOptions struct {
	IncludeUsage    bool `json:"include_usage"`
	ContinuousUsage bool `json:"continuous_usage_stats"`
}

type responseFormat struct {
	Type       string `json:"type"` // text, json_object, json_schema
	JSONSchema *struct {
		Schema json.RawMessage `json:"schema"`
	} `json:"json_schema"`
}

type completionRequest struct {
	generateFields
	Prompt   promptField `json:"prompt"`
	Echo     bool        `json:"echo"`
	Suffix   *string     `json:"suffix"`
	Logprobs *int        `json:"logprobs"`
}

type chatRequest struct {
	generateFields
	Messages            []chatMessage   `json:"messages"`
	MaxCompletionTokens *int            `json:"max_completion_tokens"`
	Logprobs            bool            `json:"logprobs"`
	TopLogprobs         *int            `json:"top_logprobs"`
	Tools               []chatTool      `json:"tools"`
	ToolChoice          toolChoice      `json:"tool_choice"`
	AddGenerationPrompt *bool           `json:"add_generation_prompt"`
	ContinueFinal       bool            `json:"continue_final_message"`
	template            []int32         // tokens of messages and tools
	call                *functionSchema // the function that must be called
}

// chatTool is a function that may be called; the raw JSON is part of the prompt.
type chatTool struct {
	Function functionSchema
	raw      json.RawMessage
}

type functionSchema struct {
	Name       string          `json:"name"`
	Parameters json.RawMessage `json:"parameters"`
}

// UnmarshalJSON keeps the raw tool beside its function.
func (t *chatTool) UnmarshalJSON(b []byte) error {
	var in struct {
		Type     string         `json:"type"`
		Function functionSchema `json:"function"`
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	if in.Type != "" && in.Type != "function" || in.Function.Name == "" {
		return errors.New("tools: only functions with a name are known")
	}
	*t = chatTool{in.Function, bytes.Clone(b)}
	return nil
}

// toolChoice is none, auto, required, or the name of a function.
type toolChoice struct{ mode, name string }

// UnmarshalJSON reads a word or {"type":"function","function":{"name":..}}.
func (c *toolChoice) UnmarshalJSON(b []byte) error {
	if json.Unmarshal(b, &c.mode) == nil {
		return nil
	}
	var in struct {
		Function struct {
			Name string `json:"name"`
		} `json:"function"`
	}
	if err := json.Unmarshal(b, &in); err != nil || in.Function.Name == "" {
		return errors.New("tool_choice: must be none, auto, required or a named function")
	}
	c.mode, c.name = "function", in.Function.Name
	return nil
}

// stringOrList is a list of strings that may be written as one string, or null.
type stringOrList []string

// UnmarshalJSON reads a string, a list of strings, or null.
func (s *stringOrList) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		if one != "" {
			*s = stringOrList{one}
		}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(s))
}

// promptField is the prompt of a completion: texts, or lists of token ids.
type promptField struct {
	texts  []string
	tokens [][]int
}

// UnmarshalJSON reads a string, a list of strings, a list of token ids, a list of such lists, or null.
func (p *promptField) UnmarshalJSON(b []byte) error {
	var (
		text  string
		ids   []int
		texts []string
		lists [][]int
	)
	switch {
	case bytes.Equal(b, []byte("null")):
	case json.Unmarshal(b, &text) == nil:
		p.texts = []string{text}
	case json.Unmarshal(b, &ids) == nil:
		p.tokens = [][]int{ids}
	case json.Unmarshal(b, &texts) == nil:
		p.texts = texts
	case json.Unmarshal(b, &lists) == nil:
		p.tokens = lists
	default:
		return errors.New("prompt: must be a string, a list of strings, a list of token ids or a list of such lists")
	}
	return nil
}

func (p promptField) empty() bool {
	for _, t := range p.texts {
		if t == "" {
			return true
		}
	}
	for _, ids := range p.tokens {
		if len(ids) == 0 {
			return true
		}
	}
	return len(p.texts)+len(p.tokens) == 0
}

// decodeBody reads a JSON request into into.
func decodeBody(r *http.Request, into any) *apiError {
	if ct := r.Header.Get("Content-Type"); ct != "" {
		if kind, _, err := mime.ParseMediaType(ct); err != nil || kind != "application/json" {
			return malformed("Unsupported Media Type: Only 'application/json' is allowed")
		}
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if err != nil {
		return &apiError{http.StatusRequestEntityTooLarge, "BadRequestError", "", "the body is too large or was cut: " + err.Error()}
	}
	return decode(body, into)
}

func decode(body []byte, into any) *apiError {
	if err := json.Unmarshal(body, into); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return badRequest(wrong.Field, "%s: cannot be %s", strings.TrimPrefix(wrong.Field, "generateFields."), wrong.Value)
		}
		return malformed("JSON decode error: %v", err)
	}
	return nil
}
