package attack

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
	"github.com/penstock/penstock/scheduler/identity"
)

// guess is one token that the attacker tries, and for whom.
type guess struct{ What, For, Token string }

type tokenArgs struct {
	URL, State     string
	Launch         string
	Join, Gateways []guess
}

const newGateway = "mallorys-gateway"

// attackTokens tries to become an agent or a gateway: with tokens that are made up, changed, too old, for somebody else, or
// another installation's.
func attackTokens(t *testing.T, s *siege) {
	args := tokenArgs{URL: s.endpoint(t).URL, State: s.rival.State(), Launch: s.replicas()[0].Launch}
	other := s.replicas()[1].Launch
	real, stranger := s.joinToken(t, args.Launch), s.joinToken(t, other)
	minted := s.mint(t, args.Launch)
	args.Join = append(guesses(args.Launch, real),
		guess{"the token of another launch", args.Launch, stranger},
		guess{"a gateway's token", args.Launch, minted["gateway"]},
		guess{"a token that has ended", args.Launch, minted["ended"]},
		guess{"a token for a launch that is not there", "attacked-mixed-7-aaaaaaaa", real},
	)
	args.Gateways = append(guesses(newGateway, minted["gateway"]),
		guess{"a launch's token", newGateway, real},
		guess{"a launch's token in its own name", args.Launch, real},
		guess{"another gateway's token", newGateway + "2", minted["gateway"]},
		guess{"a token that has ended", newGateway, minted["ended gateway"]},
	)
	s.fails(t, "tokens", args, "unauthenticated")
	s.tells(t, "join refused")
	s.tells(t, "enroll refused")
	s.works(t, "tokens", tokenArgs{URL: args.URL, Gateways: []guess{{"the right token", newGateway, minted["gateway"]}}})
}

// guesses spoils a token that is good in every way that comes to mind.
func guesses(subject, real string) (list []guess) {
	random := make([]byte, 40)
	_, _ = rand.Read(random)
	changed := func(at int) string {
		b := []byte(real)
		b[at] = 'A' + (b[at]-'A'+1)%26
		return string(b)
	}
	raw, _ := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(real, "pst-"))
	longer := slices.Clone(raw)
	longer[3]++ // it ends a day or so later
	for what, token := range map[string]string{
		"no token": "", "nothing but the prefix": "pst-", "a random token": "pst-" + base64.RawURLEncoding.EncodeToString(random),
		"the first character changed": changed(4), "a character in the middle changed": changed(len(real) / 2),
		"the last but one character changed": changed(len(real) - 2), "cut off": real[:len(real)-1], "made longer": real + "A",
		"without its prefix": strings.TrimPrefix(real, "pst-"), "a later end": "pst-" + base64.RawURLEncoding.EncodeToString(longer),
		"with a blank": real + " ", "with a zero byte": real + "\x00",
	} {
		list = append(list, guess{what, subject, token})
	}
	return list
}

func (s *siege) joinToken(t *testing.T, launch string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.victim.State(), "join", launch+".json"))
	must(t, err)
	var join identity.JoinFile
	must(t, json.Unmarshal(text, &join))
	return join.Token
}

// mint makes tokens as the victim, with the victim's secret.
func (s *siege) mint(t *testing.T, launch string) map[string]string {
	t.Helper()
	tokens := map[string]string{}
	list := s.as(t, s.alice, "mint tokens", tokenArgs{State: s.victim.State(), Launch: launch})
	must(t, json.Unmarshal([]byte(list[0].Informed), &tokens))
	return tokens
}

func init() {
	tricks["mint tokens"] = mintTokens
	tricks["tokens"] = tryTokens
}

// mintTokens makes good and old tokens with the secret of a state folder of one's own.
func mintTokens(in []byte, n *notes) error {
	var args tokenArgs
	if err := json.Unmarshal(in, &args); err != nil {
		return err
	}
	mint, err := identity.OpenJoinTokens(filepath.Join(args.State, "ca"))
	if err != nil {
		return err
	}
	hour, ago := time.Now().Add(time.Hour), time.Now().Add(-time.Minute)
	text, err := json.Marshal(map[string]string{
		"launch": mint.Mint(args.Launch, hour), "ended": mint.Mint(args.Launch, ago),
		"gateway": mint.MintGateway(newGateway, hour), "ended gateway": mint.MintGateway(newGateway, ago),
	})
	n.of("mint tokens").Informed = string(text)
	return err
}

func tryTokens(in []byte, n *notes) error {
	var args tokenArgs
	if err := json.Unmarshal(in, &args); err != nil {
		return err
	}
	if args.State != "" {
		mint, err := identity.OpenJoinTokens(filepath.Join(args.State, "ca"))
		if err != nil {
			return err
		}
		hour := time.Now().Add(time.Hour)
		args.Join = append(args.Join, guess{"a token of another installation", args.Launch, mint.Mint(args.Launch, hour)})
		args.Gateways = append(args.Gateways, guess{"a token of another installation", newGateway, mint.MintGateway(newGateway, hour)})
	}
	csr, _, err := identity.NewCSR()
	if err != nil {
		return err
	}
	c := client(disguise{})
	ctx, cancel := context.WithTimeout(timeless, trickPatience)
	defer cancel()
	for _, g := range args.Join {
		_, err := apiv1.NewAgentServiceClient(c, args.URL).Join(ctx, &apiv1.JoinRequest{
			Token: g.Token, Launch: g.For, Run: "mallorys-run", Nodes: 1, CsrDer: csr, Hostname: "mallory",
		})
		n.try("join with "+g.What, g.For, codeOf(err))
	}
	for _, g := range args.Gateways {
		_, err := apiv1.NewEnrollServiceClient(c, args.URL).Enroll(ctx, &apiv1.EnrollRequest{Token: g.Token, Name: g.For, CsrDer: csr})
		n.try("enroll with "+g.What, g.For, codeOf(err))
	}
	return nil
}

func codeOf(err error) error {
	if err == nil {
		return nil
	}
	return errors.New(connect.CodeOf(err).String())
}

// ownerOf reads the owner's certificate of a state folder of one's own.
func ownerOf(state string) (*tls.Certificate, error) {
	text, err := os.ReadFile(filepath.Join(state, "owner.pem"))
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(text, text)
	return &pair, err
}
