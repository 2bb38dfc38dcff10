package sim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/zeebo/xxh3"
)

// Message is one message of a chat.
type Message struct{ Role, Content string }

// ChatPrompt is the prompt that /v1/chat/completions makes of messages, ready for the assistant's answer.
func ChatPrompt(messages ...Message) []int {
	list := make([]chatMessage, len(messages))
	for i, m := range messages {
		list[i] = chatMessage{Role: m.Role, Content: []contentPart{{text: m.Content}}}
	}
	return ints(theVocabulary().chatPrompt(list, nil, true, false))
}

// patchesPerImage is the length of the run that stands for an image.
const patchesPerImage = 64

// chatMessage is one message as it comes in a request.
type chatMessage struct {
	Role       string          `json:"role"`
	Content    messageContent  `json:"content"`
	ToolCalls  json.RawMessage `json:"tool_calls"`
	ToolCallID string          `json:"tool_call_id"`
}

// messageContent is text and images in order.
type messageContent []contentPart

type contentPart struct{ text, image string }

// UnmarshalJSON reads a string, a list of parts, or null.
func (c *messageContent) UnmarshalJSON(b []byte) error {
	var text string
	if bytes.Equal(b, []byte("null")) {
		return nil
	}
	if json.Unmarshal(b, &text) == nil {
		*c = messageContent{{text: text}}
		return nil
	}
	var parts []json.RawMessage
	if err := json.Unmarshal(b, &parts); err != nil {
		return errors.New("content: must be a string or a list of parts")
	}
	for _, raw := range parts {
		part, err := parsePart(raw)
		if err != nil {
			return err
		}
		*c = append(*c, part)
	}
	return nil
}

// parsePart reads a part in the forms of chat completions and responses.
func parsePart(raw json.RawMessage) (contentPart, error) {
	var in struct {
		Type  string          `json:"type"`
		Text  string          `json:"text"`
		Image json.RawMessage `json:"image_url"`
	}
	if err := json.Unmarshal(raw, &in); err != nil {
		return contentPart{}, fmt.Errorf("content part: %w", err)
	}
	switch in.Type {
	case "text", "input_text", "output_text":
		return contentPart{text: in.Text}, nil
	case "image_url", "input_image":
		var url string
		if json.Unmarshal(in.Image, &url) != nil {
			var o struct {
				URL string `json:"url"`
			}
			if err := json.Unmarshal(in.Image, &o); err != nil {
				return contentPart{}, errors.New("content part: image_url must hold a url")
			}
			url = o.URL
		}
		return contentPart{image: url}, nil
	}
	return contentPart{}, fmt.Errorf("content part: unknown type %q", in.Type)
}

// chatPrompt is a ChatML prompt. Names of special tokens in contents stay text: a user cannot forge a turn.
func (v *vocabulary) chatPrompt(messages []chatMessage, tools []chatTool, generate, continueLast bool) []int32 {
	var ids []int32
	if len(tools) > 0 {
		ids = v.encode(append(ids, imStart), "system\n")
		ids = append(ids, toolOpen)
		for _, t := range tools {
			ids = v.encode(ids, compact(t.raw)+"\n")
		}
		ids = v.encode(append(ids, imEnd), "\n")
	}
	for i, m := range messages {
		ids = v.encode(append(ids, imStart), m.Role+"\n")
		for _, p := range m.Content {
			ids = v.encodePart(ids, p)
		}
		if len(m.ToolCalls) > 0 && string(m.ToolCalls) != "null" {
			ids = v.encode(ids, compact(m.ToolCalls))
		}
		if !continueLast || i < len(messages)-1 {
			ids = v.encode(append(ids, imEnd), "\n")
		}
	}
	if generate && !continueLast {
		ids = v.encode(append(ids, imStart), "assistant\n")
	}
	return ids
}

func (v *vocabulary) encodePart(ids []int32, p contentPart) []int32 {
	ids = v.encode(ids, p.text)
	if p.image == "" {
		return ids
	}
	h := xxh3.HashString(p.image)
	for i := range patchesPerImage {
		ids = append(ids, v.firstPad+int32(mix(h, uint64(i))%imagePatches))
	}
	return ids
}

func compact(raw json.RawMessage) string {
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return string(raw)
	}
	return b.String()
}
