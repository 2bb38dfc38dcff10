package identity

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDeploymentTokens(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "tokens")
	tokens, err := OpenDeploymentTokens(dir)
	if err != nil {
		t.Fatal(err)
	}
	token := func(deployment string) string {
		t.Helper()
		text, err := tokens.Token(deployment)
		if err != nil || !IsDeploymentToken(text) {
			t.Fatalf("token %q: %v", text, err)
		}
		return text
	}
	a, b := token("a"), token("b.c")
	if again := token("a"); again != a {
		t.Error("a deployment's token changes from one call to the next")
	}
	if info, err := os.Stat(filepath.Join(dir, "a.token")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file: %v, %v", info, err)
	}
	for text, want := range map[string]string{a: "a", b: "b.c"} {
		if got, err := tokens.Check(text); got != want || err != nil {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	secret := a[strings.LastIndexByte(a, '.'):]
	for _, forged := range []string{
		"", "psd-", "psd-a", "psd-a.", "psd-b.c" + secret, "psd-z" + secret, a + "x", a[:len(a)-1], strings.ToUpper(a), "pst-" + a[4:],
		"psd-../a" + secret, "psd-a/../a" + secret, "psd-.." + secret, a + strings.Repeat("x", 1000),
	} {
		if got, err := tokens.Check(forged); !errors.Is(err, ErrTokenInvalid) || got != "" {
			t.Errorf("%q is taken for %q: %v", forged, got, err)
		}
	}
	for range 2 {
		if err := tokens.Revoke("a"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tokens.Check(a); !errors.Is(err, ErrTokenInvalid) {
		t.Errorf("a revoked token: %v", err)
	}
	if token("a") == a {
		t.Error("what was revoked is given out again")
	}
	if _, err := tokens.Token("../x"); err == nil {
		t.Error("a token for a path")
	}
}
