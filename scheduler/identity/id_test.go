package identity

import (
	"crypto/x509"
	"errors"
	"net/url"
	"strings"
	"testing"
)

const installation = "0123456789abcdef0123456789abcdef"

func TestURI(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		id  ID
		uri string
	}{
		{agentID, "penstock://" + installation + "/agent/qwen-mixed-0-abc/run1/1"},
		{gatewayID, "penstock://" + installation + "/gateway/gw1"},
		{controllerID, "penstock://" + installation + "/controller/login1"},
		{ID{Role: CLI, Name: "me"}, "penstock://" + installation + "/cli/me"},
		{ID{Role: Agent, Launch: "l", Run: "8d2e7a52-1f6c-4f1b-9e0c-aa11bb22cc33"}, "penstock://" + installation + "/agent/l/8d2e7a52-1f6c-4f1b-9e0c-aa11bb22cc33/0"},
	} {
		if got := c.id.uri(installation).String(); got != c.uri {
			t.Errorf("%v is %s, want %s", c.id, got, c.uri)
		}
		id, inst, err := parseURI(c.uri)
		if id != c.id || inst != installation || err != nil {
			t.Errorf("%s is %v, %s, %v", c.uri, id, inst, err)
		}
	}
}

// badURIs are things that look nearly like an identity.
var badURIs = []string{
	"", "penstock:", "penstock://", "http://" + installation + "/gateway/gw1",
	"penstock://" + installation,
	"penstock://" + installation + "/",
	"penstock://" + installation + "/gateway",
	"penstock://" + installation + "/gateway/",
	"penstock://" + installation + "/gateway/gw1/",
	"penstock://" + installation + "/gateway/gw1?x",
	"penstock://" + installation + "/gateway/gw1#x",
	"penstock://" + installation + "/gateway/gw%31",
	"penstock://" + installation + "/gateway/..",
	"penstock://" + installation + "/Gateway/gw1",
	"penstock://" + installation + "/root/gw1",
	"penstock://" + installation + "/gateway/gw1/run/0",
	"penstock://" + installation + "/agent/l",
	"penstock://" + installation + "/agent/l/r",
	"penstock://" + installation + "/agent/l/r/",
	"penstock://" + installation + "/agent/l/r/-1",
	"penstock://" + installation + "/agent/l/r/+1",
	"penstock://" + installation + "/agent/l/r/01",
	"penstock://" + installation + "/agent/l/r/9999999",
	"penstock://" + installation + "/agent//r/0",
	"penstock://user@" + installation + "/gateway/gw1",
	"penstock://" + installation + ":443/gateway/gw1",
	"penstock://" + strings.ToUpper(installation) + "/gateway/gw1",
	"penstock://0123/gateway/gw1",
	"penstock://" + installation + "/gateway/" + strings.Repeat("g", 129),
	"PENSTOCK://" + installation + "/gateway/gw1",
	"penstock://" + installation + "/gateway/gw1\x00",
	"penstock://" + installation + "/gateway/gwé",
}

func TestBadURIs(t *testing.T) {
	t.Parallel()
	for _, s := range badURIs {
		if id, _, err := parseURI(s); !errors.Is(err, ErrNoIdentity) || id != (ID{}) {
			t.Errorf("%q is %v, %v", s, id, err)
		}
	}
}

func TestFromCertWantsOneURI(t *testing.T) {
	t.Parallel()
	uri := gatewayID.uri(installation)
	for _, uris := range [][]*url.URL{nil, {uri, uri}, {uri, controllerID.uri(installation)}} {
		if _, err := FromCert(&x509.Certificate{URIs: uris}); !errors.Is(err, ErrNoIdentity) {
			t.Errorf("%d URIs: %v", len(uris), err)
		}
	}
	if _, err := FromState(nil); !errors.Is(err, ErrNoIdentity) {
		t.Errorf("no connection: %v", err)
	}
}

// FuzzURI: whatever is accepted has exactly one spelling and is valid.
func FuzzURI(f *testing.F) {
	for _, s := range badURIs {
		f.Add(s)
	}
	f.Add(agentID.uri(installation).String())
	f.Add(gatewayID.uri(installation).String())
	f.Fuzz(func(t *testing.T, s string) {
		id, inst, err := parseURI(s)
		if err != nil {
			if id != (ID{}) || !errors.Is(err, ErrNoIdentity) {
				t.Errorf("%q is %v and %v", s, id, err)
			}
			return
		}
		if err := id.Validate(); err != nil || id.uri(inst).String() != s {
			t.Errorf("%q is %v, spelt %q, %v", s, id, id.uri(inst), err)
		}
	})
}
