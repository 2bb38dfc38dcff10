package identity

import (
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func newTokens(t testing.TB) *JoinTokens {
	t.Helper()
	tokens, err := OpenJoinTokens(filepath.Join(t.TempDir(), "join"))
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func TestTokens(t *testing.T) {
	t.Parallel()
	tokens, other := newTokens(t), newTokens(t)
	now := time.Unix(1_700_000_000, 0)
	end := now.Add(time.Hour)
	good := tokens.Mint("l1", end)
	raw, err := base64.RawURLEncoding.DecodeString(good[len(tokenPrefix):])
	if err != nil {
		t.Fatal(err)
	}
	respelt := func(change func(raw []byte)) string {
		b := append([]byte(nil), raw...)
		change(b)
		return tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
	}
	for _, c := range []struct {
		name, token, launch string
		at                  time.Time
		want                error
	}{
		{"good", good, "l1", now, nil},
		{"good in its last second", good, "l1", end.Add(-time.Second), nil},
		{"expired", good, "l1", end, ErrTokenExpired},
		{"long expired", good, "l1", end.Add(1000 * time.Hour), ErrTokenExpired},
		{"of another launch", good, "l2", now, ErrTokenInvalid},
		{"of another installation", other.Mint("l1", end), "l1", now, ErrTokenInvalid},
		{"of a gateway", tokens.MintGateway("l1", end), "l1", now, ErrTokenInvalid},
		{"later expiry", respelt(func(b []byte) { b[0] = 1 }), "l1", now, ErrTokenInvalid},
		{"another MAC", respelt(func(b []byte) { b[39] ^= 1 }), "l1", now, ErrTokenInvalid},
		{"truncated", good[:len(good)-1], "l1", now, ErrTokenInvalid},
		{"extended", good + "A", "l1", now, ErrTokenInvalid},
		{"padded", good + "==", "l1", now, ErrTokenInvalid},
		{"line end", good + "\n", "l1", now, ErrTokenInvalid},
		{"without its prefix", good[len(tokenPrefix):], "l1", now, ErrTokenInvalid},
		{"empty", "", "l1", now, ErrTokenInvalid},
		{"prefix alone", tokenPrefix, "l1", now, ErrTokenInvalid},
		{"clock before 1970", good, "l1", time.Unix(-5, 0), nil},
		{"minted before 1970", tokens.Mint("l1", time.Unix(-5, 0)), "l1", now, ErrTokenExpired},
	} {
		if err := tokens.Check(c.token, c.launch, c.at); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if err := tokens.CheckGateway(tokens.MintGateway("gw1", end), "gw1", now); err != nil {
		t.Error(err)
	}
	if err := tokens.CheckGateway(tokens.Mint("gw1", end), "gw1", now); !errors.Is(err, ErrTokenInvalid) {
		t.Errorf("a launch's token for a gateway: %v", err)
	}
}

func TestTokensOutliveTheController(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "join")
	first, err := OpenJoinTokens(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := OpenJoinTokens(dir)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if err := second.Check(first.Mint("l1", now.Add(time.Hour)), "l1", now); err != nil {
		t.Error(err)
	}
	file := filepath.Join(dir, tokenFile)
	for says, spoil := range map[string]func() error{
		"chmod 600": func() error { return os.Chmod(file, 0o640) },
		"damaged":   func() error { return errors.Join(os.Chmod(file, 0o600), os.Truncate(file, 31)) },
	} {
		_ = os.Chmod(file, 0o600)
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenJoinTokens(dir); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, wanted it to say %q", err, says)
		}
	}
}

// FuzzToken: nothing but the very token is good.
func FuzzToken(f *testing.F) {
	tokens := newTokens(f)
	now := time.Unix(1_700_000_000, 0)
	good := tokens.Mint("l1", now.Add(time.Hour))
	f.Add(good, "l1")
	f.Add(good[:len(good)-2]+"AA", "l1")
	f.Add(tokenPrefix, "")
	f.Fuzz(func(t *testing.T, token, launch string) {
		if err := tokens.Check(token, launch, now); err == nil && (token != good || launch != "l1") {
			t.Errorf("%q is good for %q", token, launch)
		}
	})
}
