package render

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/hashicorp/nomad/api"
	"github.com/zclconf/go-cty/cty"
)

// NomadJSON is a job as Nomad's API and `nomad job run -json` take it.
func NomadJSON(j *api.Job) ([]byte, error) {
	text, err := json.Marshal(map[string]*api.Job{"Job": j})
	if err != nil {
		return nil, fmt.Errorf("render for Nomad: %w", err)
	}
	var doc map[string]any
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&doc); err != nil {
		return nil, fmt.Errorf("render for Nomad: %w", err)
	}
	out, err := json.MarshalIndent(withoutNull(doc), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("render for Nomad: %w", err)
	}
	return append(out, '\n'), nil
}

// withoutNull leaves out what says nothing.
func withoutNull(v any) any {
	switch v := v.(type) {
	case map[string]any:
		maps.DeleteFunc(v, func(_ string, x any) bool { return x == nil || x == "" })
		for k, x := range v {
			v[k] = withoutNull(x)
		}
	case []any:
		for i, x := range v {
			v[i] = withoutNull(x)
		}
	}
	return v
}

// NomadHCL is a job as people write it: `nomad job plan` and `nomad job run -check-index` take it. It says the same as the
// JSON of the same job.
func NomadHCL(j *api.Job) []byte {
	f := hclwrite.NewEmptyFile()
	if j.ID != nil {
		comment(f.Body(), "Made by `penstock render`. Nothing here is secret: what its tasks join with is the variable "+NomadVariable(*j.ID)+".")
	}
	jobBlock(body{f.Body()}.block("job", *j.ID), j)
	return runtimeVariable.ReplaceAll(hclwrite.Format(f.Bytes()), []byte("${$1"))
}

// runtimeVariable is a variable of Nomad's, which hclwrite escapes. Nomad reads both forms as the same text; people write
// this one.
var runtimeVariable = regexp.MustCompile(`\$\$\{((?:attr|node|meta|device)\.|NOMAD_)`)

func comment(b *hclwrite.Body, text string) {
	b.AppendUnstructuredTokens(hclwrite.Tokens{{Type: hclsyntax.TokenComment, Bytes: []byte("# " + text + "\n")}})
}

// body writes one block's content. What is nil or zero is left out, except where a pointer says that zero is meant.
type body struct{ *hclwrite.Body }

func (b body) block(kind string, labels ...string) body {
	return body{b.AppendNewBlock(kind, labels).Body()}
}

// section is a block that is set apart by an empty line.
func (b body) section(kind string, labels ...string) body {
	b.AppendNewline()
	return b.block(kind, labels...)
}

func (b body) set(name string, v any) {
	switch v := v.(type) {
	case string:
		if v != "" {
			b.SetAttributeValue(name, cty.StringVal(v))
		}
	case *string:
		if v != nil {
			b.SetAttributeValue(name, cty.StringVal(*v))
		}
	case *bool:
		if v != nil {
			b.SetAttributeValue(name, cty.BoolVal(*v))
		}
	case *int:
		setNumber(b, name, v)
	case *int8:
		setNumber(b, name, v)
	case *int64:
		setNumber(b, name, v)
	case *uint64:
		setNumber(b, name, v)
	case time.Duration:
		if v != 0 {
			b.SetAttributeValue(name, cty.StringVal(span(v)))
		}
	case *time.Duration:
		if v != nil {
			b.SetAttributeValue(name, cty.StringVal(span(*v)))
		}
	case []string:
		if len(v) > 0 {
			b.SetAttributeValue(name, list(v))
		}
	default:
		panic(fmt.Sprintf("render: nobody knows how to write %s, a %T", name, v)) // a kind of field that this package never sets
	}
}

func setNumber[T int | int8 | int64 | uint64](b body, name string, v *T) {
	if v != nil {
		b.SetAttributeValue(name, cty.NumberIntVal(int64(*v)))
	}
}

func list(words []string) cty.Value {
	values := make([]cty.Value, len(words))
	for i, w := range words {
		values[i] = cty.StringVal(w)
	}
	return cty.ListVal(values)
}

// span writes a duration as Nomad's people do: 20m, 75s.
func span(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// table writes a block of free keys, such as meta and env.
func (b body) table(kind string, m map[string]string) {
	if len(m) == 0 {
		return
	}
	t := b.section(kind)
	for _, k := range slices.Sorted(maps.Keys(m)) {
		t.SetAttributeValue(k, cty.StringVal(m[k]))
	}
}

// heredoc writes a text of whole lines as it is.
func (b body) heredoc(name, text string) {
	b.SetAttributeRaw(name, hclwrite.Tokens{
		{Type: hclsyntax.TokenOHeredoc, Bytes: []byte("<<EOH\n")},
		{Type: hclsyntax.TokenStringLit, Bytes: []byte(text)},
		{Type: hclsyntax.TokenCHeredoc, Bytes: []byte("EOH")},
	})
}
