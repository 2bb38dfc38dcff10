package jobspecs

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var (
	typeOfDeployment = reflect.TypeFor[Deployment]()
	typeOfCluster    = reflect.TypeFor[ClusterKind]()
	typeOfEngine     = reflect.TypeFor[EngineKind]()
	typeOfRuntime    = reflect.TypeFor[ContainerRuntime]()
)

// TestEncodeRoundTrip: Parse(Encode(d)) == d, the schema accepts the text, and equal deployments hash equally.
func TestEncodeRoundTrip(t *testing.T) {
	t.Parallel()
	schema := compileSchema(t)
	rapid.Check(t, func(t *rapid.T) {
		want := drawDeployment(t)
		if err := Validate(want); err != nil {
			t.Fatalf("the generator made an invalid deployment: %v", err)
		}
		text := Encode(want)
		got, err := Parse("encoded.yaml", text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("changed on the way (-want +got):\n%s\n%s", diff, text)
		}
		if Hash(got) != Hash(want) {
			t.Fatal("equal deployments, different hashes")
		}
		if err := schema.Validate(asJSON(t, text)); err != nil {
			t.Fatalf("the schema refuses it: %v\n%s", err, text)
		}
	})
}

// TestCanonicalForm holds the form itself: a change of it would give every deployment a new revision.
func TestCanonicalForm(t *testing.T) {
	t.Parallel()
	for name, src := range readAll(t, "examples/*.yaml") {
		d, err := Parse(name, src)
		if err != nil {
			t.Error(err)
			continue
		}
		golden := filepath.Join("testdata", "canonical", filepath.Base(name))
		got := "# " + Hash(d) + "\n" + string(Encode(d))
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", golden, diff)
		}
	}
}

// TestHashSeesContentOnly: comments, order and notation don't count; every value does.
func TestHashSeesContentOnly(t *testing.T) {
	t.Parallel()
	a := parse(t, "apiVersion: penstock/v1\nname: a\nmodel: {id: m}\nengine: {kind: sim}\nroles: {mixed: {gpus: 1, memory: 1024MiB}}\n")
	b := parse(t, "# the same\nroles:\n  mixed:\n    memory: 1GiB\n    gpus: {count: 1}\nengine:\n  kind: 'sim'\nmodel: {id: m}\nname: a\napiVersion: penstock/v1\r\n")
	c := parse(t, "apiVersion: penstock/v1\nname: a\nmodel: {id: m}\nengine: {kind: sim}\nroles: {mixed: {gpus: 1, memory: 1025MiB}}\n")
	if Hash(a) != Hash(b) {
		t.Error("the same content has two hashes")
	}
	if Hash(a) == Hash(c) {
		t.Error("different content has one hash")
	}
	if short := ShortHash(Hash(a)); len(short) != 12 || !strings.HasPrefix(Hash(a), short) {
		t.Errorf("short hash %q of %q", short, Hash(a))
	}
}

func parse(t testing.TB, src string) Deployment {
	t.Helper()
	d, err := Parse("test.yaml", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return d
}
