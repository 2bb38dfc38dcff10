package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// json says whether data is printed as JSON.
func (inv *invocation) json() bool { return inv.set.is("json") }

// printJSON prints one document with its schema's name and version. Names and meanings inside a version never change.
func (inv *invocation) printJSON(schema string, fields map[string]any) error {
	doc := map[string]any{"schema": "penstock." + schema + "/v1"}
	for k, v := range fields {
		doc[k] = v
	}
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", schema, err)
	}
	_, err = fmt.Fprintln(inv.Out, string(text))
	return err
}

// printLine prints one document on one line, for commands that follow something.
func (inv *invocation) printLine(schema string, fields map[string]any) error {
	doc := map[string]any{"schema": "penstock." + schema + "/v1"}
	for k, v := range fields {
		doc[k] = v
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("encode %s: %w", schema, err)
	}
	_, err = fmt.Fprintln(inv.Out, string(text))
	return err
}

// printMessage prints a whole wire message as the document.
func (inv *invocation) printMessage(schema string, m proto.Message) error {
	return inv.printJSON(schema, plain(m.ProtoReflect()))
}

// plain turns a message into JSON values: names as on the wire, numbers as numbers, times in RFC 3339, durations in
// seconds, enums as lower-case words. What is unknown is null.
func plain(m protoreflect.Message) map[string]any {
	out := map[string]any{}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		name := string(f.Name())
		switch {
		case f.ContainingOneof() != nil && !f.HasOptionalKeyword():
			if m.Has(f) {
				out[name] = plainValue(f, m.Get(f))
			}
		case f.IsMap():
			mm := map[string]any{}
			m.Get(f).Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				mm[k.String()] = plainValue(f.MapValue(), v)
				return true
			})
			out[name] = mm
		case f.IsList():
			list := []any{}
			for j := range m.Get(f).List().Len() {
				list = append(list, plainValue(f, m.Get(f).List().Get(j)))
			}
			out[name] = list
		case f.HasPresence() && !m.Has(f):
			out[name] = nil
		default:
			out[name] = plainValue(f, m.Get(f))
		}
	}
	return out
}

func plainValue(f protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch f.Kind() {
	case protoreflect.MessageKind:
		switch m := v.Message().Interface().(type) {
		case *timestamppb.Timestamp:
			return m.AsTime().UTC().Format(time.RFC3339Nano)
		case *durationpb.Duration:
			return m.AsDuration().Seconds()
		}
		return plain(v.Message())
	case protoreflect.EnumKind:
		e := f.Enum().Values().ByNumber(v.Enum())
		if e == nil {
			return int32(v.Enum())
		}
		name := strings.ToLower(string(e.Name()))
		_, short, ok := strings.Cut(name, "_")
		if ok {
			return short
		}
		return name
	}
	return v.Interface()
}

// table prints aligned columns; rows have as many cells as the head. What does not fit into a terminal's line of the last
// column, which is the one with words, goes below its row, whole.
func (inv *invocation) table(head []string, rows [][]string) error {
	widths := make([]int, len(head))
	all := append([][]string{head}, rows...)
	for _, r := range all {
		for i, cell := range r {
			widths[i] = max(widths[i], visible(cell))
		}
	}
	last, before := len(head)-1, 0
	for _, w := range widths[:last] {
		before += w + 2
	}
	var out strings.Builder
	for _, r := range all {
		line := ""
		for i, cell := range r[:last] {
			line += cell + strings.Repeat(" ", widths[i]-visible(cell)+2)
		}
		if before < inv.Width && before+visible(r[last]) > inv.Width {
			line = strings.TrimRight(line, " ") + "\n    "
		}
		out.WriteString(line + r[last] + "\n")
	}
	_, err := io.WriteString(inv.Out, out.String())
	return err
}

// visible counts the characters of a cell without colour.
func visible(s string) int { return utf8.RuneCountInString(colour.ReplaceAllString(s, "")) }

var colour = regexp.MustCompile("\x1b\\[[0-9;]*m")

// printable is text of an engine or a cluster as it may stand in a line of ours: without colours and control characters.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, colour.ReplaceAllString(s, ""))
}

// say prints talk to stderr.
func (inv *invocation) say(format string, args ...any) {
	fmt.Fprintf(inv.Err, format+"\n", args...)
}

// bytesText prints a size with three digits at most: 512 MiB, 1.5 GiB.
func bytesText(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if v >= 100 || v == float64(int64(v)) {
		return fmt.Sprintf("%.0f %s", v, units[i])
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

// ageText prints a span as people say it: 5s, 3m, 2h10m, 4d.
func ageText(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// orUnknown shows what is not known as a dash, never as zero.
func orUnknown[T any](v *T, format string) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf(format, *v)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
