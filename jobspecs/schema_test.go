package jobspecs

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// beyondSchema lists the bad files that only Parse can refuse, with the reason.
var beyondSchema = map[string]string{
	"parallel":                "a product",
	"parallel-odd":            "a product",
	"pyxis-outside-slurm":     "depends on another section",
	"slurm-options":           "depends on another section",
	"two-documents":           "a schema sees one document at a time",
	"container-without-image": "depends on a value",
}

func compileSchema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("penstock.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("penstock.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

type fataler interface{ Fatalf(string, ...any) }

// asJSON reads YAML into the values that a schema validator takes.
func asJSON(t fataler, src []byte) any {
	v, err := toJSON(src)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return v
}

func toJSON(src []byte) (any, error) {
	var v any
	if err := yaml.Unmarshal(src, &v); err != nil {
		return nil, err
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return jsonschema.UnmarshalJSON(bytes.NewReader(text))
}

func TestSchemaAcceptsExamples(t *testing.T) {
	t.Parallel()
	schema := compileSchema(t)
	for name, src := range readAll(t, "examples/*.yaml") {
		if err := schema.Validate(asJSON(t, src)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSchemaRefusesBadFiles(t *testing.T) {
	t.Parallel()
	schema := compileSchema(t)
	refused := 0
	for name, src := range readAll(t, "testdata/bad/*.yaml") {
		v, err := toJSON(src)
		if err != nil {
			continue // no YAML: an editor says so without a schema
		}
		stem := strings.TrimSuffix(filepath.Base(name), ".yaml")
		_, beyond := beyondSchema[stem]
		switch err := schema.Validate(v); {
		case err != nil && beyond:
			t.Errorf("%s: the schema can tell after all: %v", stem, err)
		case err == nil && !beyond:
			t.Errorf("%s: the schema takes it", stem)
		case err != nil:
			refused++
		}
	}
	if refused < 15 {
		t.Errorf("the schema refused %d files only", refused)
	}
}

// TestRulesMatchTypes: every key of the file has a rule with a text for editors, and no rule is left over.
func TestRulesMatchTypes(t *testing.T) {
	t.Parallel()
	var schema node
	if err := json.Unmarshal(Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{"": true}
	rulePaths(place{}, typeOfDeployment, seen)
	for path := range seen {
		if path != "" && rules[path].doc == "" {
			t.Errorf("%s has no rule with a doc", path)
		}
	}
	for path := range rules {
		if !seen[path] {
			t.Errorf("the rule %s belongs to no field", path)
		}
	}
}
