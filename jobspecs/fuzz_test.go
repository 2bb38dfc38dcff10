package jobspecs

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzParse: any bytes give either problems that name the file, or a deployment that is valid and survives Encode.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"examples/*.yaml", "testdata/bad/*.yaml", "testdata/canonical/*.yaml"} {
		for _, src := range readAll(f, pattern) {
			f.Add(src)
		}
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		d, err := Parse("fuzz.yaml", src)
		if err != nil {
			var errs Errors
			if !errors.As(err, &errs) || len(errs) == 0 || errs[0].File != "fuzz.yaml" {
				t.Fatalf("got %#v", err)
			}
			return
		}
		if err := Validate(d); err != nil {
			t.Fatalf("Parse takes what Validate refuses: %v", err)
		}
		again, err := Parse("again.yaml", Encode(d))
		if err != nil {
			t.Fatalf("%v\n%s", err, Encode(d))
		}
		if diff := cmp.Diff(d, again); diff != "" {
			t.Fatal(diff)
		}
	})
}

// FuzzUnits: what is read is written back to the same value.
func FuzzUnits(f *testing.F) {
	for _, s := range []string{"64GiB", "1.5TB", "0", "64", "1m30s", "2d", "24:00:00", "1-12:00", "µs", "1.d", "0.0000001KB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if b, err := ParseBytes(s); err == nil {
			if again, err := ParseBytes(b.String()); err != nil || again != b {
				t.Errorf("%q is %v, then %v, %v", s, b, again, err)
			}
		}
		if d, err := ParseDuration(s); err == nil {
			if again, err := ParseDuration(d.String()); err != nil || again != d || d < 0 {
				t.Errorf("%q is %v, then %v, %v", s, d, again, err)
			}
		}
	})
}
