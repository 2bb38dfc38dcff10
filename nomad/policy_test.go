package nomad

import (
	"os"
	"slices"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// rights are all that a policy for Penstock may hold; who adds one says here what needs it.
var rights = map[string][]string{
	"namespace": {"list-jobs", "parse-job", "read-job", "submit-job", "scale-job", "read-job-scaling", "alloc-lifecycle", "read-logs"},
	"path":      {"read", "write", "destroy", "list"},
}

// TestPolicy: the ACL policy can be parsed, gives no right beyond these, no wildcard namespace, and variables of our own jobs only.
func TestPolicy(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("policy/penstock.hcl")
	if err != nil {
		t.Fatal(err)
	}
	file, diags := hclsyntax.ParseConfig(text, "penstock.hcl", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	seen := map[string]int{}
	var walk func(*hclsyntax.Body, string)
	walk = func(b *hclsyntax.Body, kind string) {
		for name, a := range b.Attributes {
			v, diags := a.Expr.Value(nil)
			switch {
			case diags.HasErrors():
				t.Error(diags)
			case name == "capabilities":
				for _, c := range v.AsValueSlice() {
					seen[kind]++
					if !slices.Contains(rights[kind], c.AsString()) {
						t.Errorf("%s may %s", kind, c.AsString())
					}
				}
			case name != "policy" || kind != "node" || v.AsString() != "read":
				t.Errorf("%s of %s is %s", name, kind, v.GoString())
			}
		}
		for _, x := range b.Blocks {
			if x.Type == "path" && x.Labels[0] != "nomad/jobs/"+jobPrefix+"*" || x.Type == "namespace" && x.Labels[0] == everywhere {
				t.Errorf("rights on %s %s", x.Type, x.Labels[0])
			}
			walk(x.Body, x.Type)
		}
	}
	walk(file.Body.(*hclsyntax.Body), "")
	if seen["namespace"] != len(rights["namespace"]) || seen["path"] != len(rights["path"]) {
		t.Errorf("the policy gives %v", seen)
	}
}
