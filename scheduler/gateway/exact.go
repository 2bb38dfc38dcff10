package gateway

import (
	"strconv"

	"github.com/penstock/penstock/scheduler/gateway/rawjson"
)

// Which streams can be continued exactly on another replica is decided by an allow-list: every field of the body must be
// known and have a value under which the next token follows from the tokens before it alone. What is not known here ends,
// when its replica dies, in an error instead of in an answer that is only nearly the same.
//
// Greedy is only what says "temperature": 0. Without it engines take the model's own default, which mostly samples.

// rule says whether a value (never null) allows an answer to be continued.
type rule func(value []byte) bool

var continuable = map[string]rule{
	"model": anything, "messages": onlyText, "prompt": onePrompt,
	"stream": anything, "stream_options": onlyUsage, "return_token_ids": off,
	"temperature": equals(0),

	// Greedy decoding looks at none of these.
	"top_p": anything, "top_k": anything, "min_p": anything, "seed": anything,

	// They end an answer, and are carried over.
	"max_tokens": counts, "max_completion_tokens": counts, "min_tokens": counts,
	"stop": anything, "stop_token_ids": anything, "ignore_eos": anything, "include_stop_str_in_output": anything,
	"skip_special_tokens": anything, "spaces_between_special_tokens": anything,

	// They are about the prompt, whose token ids are known once it is read.
	"add_generation_prompt": anything, "continue_final_message": anything, "add_special_tokens": anything, "chat_template": anything,
	"chat_template_kwargs": anything, "documents": anything, "truncate_prompt_tokens": anything,

	// Engines do nothing with these.
	"user": anything, "metadata": anything, "store": anything, "service_tier": anything, "safety_identifier": anything, "prompt_cache_key": anything,
	"parallel_tool_calls": anything,

	// Off, they are harmless.
	"n": equals(1), "best_of": equals(1), "echo": off, "use_beam_search": off, "suffix": empty,
	"presence_penalty": equals(0), "frequency_penalty": equals(0), "repetition_penalty": equals(1), "logit_bias": empty,
	"logprobs": off, "top_logprobs": equals(0), "prompt_logprobs": never, "return_tokens_as_token_ids": off,
	"response_format": plainFormat, "tools": empty, "tool_choice": noTool, "functions": empty, "bad_words": empty,
}

// whyNotExact says why an answer cannot be continued on another replica, empty = it can.
func whyNotExact(body rawjson.Object) string {
	greedy := false
	for _, f := range body.Fields {
		name, value := string(f.Name), body.Raw[f.Value:f.ValueEnd]
		if string(value) == "null" {
			continue
		}
		allowed, known := continuable[name]
		switch {
		case !known:
			return "it uses " + strconv.Quote(name)
		case name == "temperature" && !allowed(value):
			return "it samples"
		case !allowed(value):
			return "it uses " + strconv.Quote(name) + " in a way that another replica cannot take over"
		}
		greedy = greedy || name == "temperature"
	}
	if !greedy {
		return `it samples (only "temperature": 0 is greedy)`
	}
	return ""
}

func anything([]byte) bool { return true }

func never([]byte) bool { return false }

func off(v []byte) bool { return string(v) == "false" || string(v) == "0" }

func empty(v []byte) bool {
	switch v[0] {
	case '"':
		return len(v) == 2
	case '[':
		el := rawjson.Elements(v, 0)
		return !el.Next()
	case '{':
		m := rawjson.Members(v, 0)
		return !m.Next()
	}
	return false
}

func equals(want float64) rule {
	return func(v []byte) bool {
		f, ok := number(v)
		return ok && f == want
	}
}

// counts takes a number of tokens.
func counts(v []byte) bool {
	n, ok := integer(v)
	return ok && n >= 0
}

func plainFormat(v []byte) bool {
	kind, _ := text(inside(v, "type"))
	return kind == "text"
}

// onlyUsage takes no option but that for usage at the end.
func onlyUsage(v []byte) bool {
	if v[0] != '{' {
		return false
	}
	for it := rawjson.Members(v, 0); it.Next(); {
		at := it.Value
		if name := string(it.Key()); !off(v[at:it.Skip()]) && name != "include_usage" {
			return false
		}
	}
	return true
}

func noTool(v []byte) bool {
	choice, _ := text(v)
	return choice == "none"
}

// onePrompt takes one text or one list of token ids: several prompts have several answers.
func onePrompt(v []byte) bool {
	if v[0] == '"' {
		return true
	}
	if v[0] != '[' {
		return false
	}
	for el := rawjson.Elements(v, 0); el.Next(); {
		if c := v[el.Value]; c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// onlyText takes messages of text alone: the token ids of an image do not bring the image back.
func onlyText(v []byte) bool {
	if v[0] != '[' {
		return false
	}
	for el := rawjson.Elements(v, 0); el.Next(); {
		at := el.Value
		message := v[at:el.Skip()]
		content := inside(message, "content")
		if absent(content) || content[0] == '"' {
			continue
		}
		if content[0] != '[' {
			return false
		}
		for part := rawjson.Elements(content, 0); part.Next(); {
			at := part.Value
			if kind, _ := text(inside(content[at:part.Skip()], "type")); kind != "text" {
				return false
			}
		}
	}
	return true
}
