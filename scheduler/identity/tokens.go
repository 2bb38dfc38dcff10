package identity

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/penstock/penstock/scheduler/statefile"
)

// What is wrong with a join token.
var (
	ErrTokenInvalid = errors.New("token is not valid here")
	ErrTokenExpired = errors.New("token has expired")
)

const (
	tokenPrefix = "pst-"
	tokenFile   = "join.secret"
	tokenBytes  = 8 + sha256.Size // expiry in Unix seconds, big endian; then the MAC
	secretBytes = 32
	forLaunch   = "penstock join launch v1"
	forGateway  = "penstock join gateway v1"
)

// JoinTokens makes and checks the tokens that agents and gateways exchange for a certificate. A token is bound to one
// launch (or one gateway's name) and an expiry; the controller stores none of them, only the secret they are made with.
//
//	pst- base64url( expiry, 8 bytes | HMAC-SHA256(secret, purpose 0x00 subject 0x00 expiry), 32 bytes )
//
// It is immutable and safe for concurrent use.
type JoinTokens struct {
	secret []byte
}

// OpenJoinTokens reads the secret in a folder (made or checked as by SecureDir) and makes one at the first call.
func OpenJoinTokens(dir string) (*JoinTokens, error) {
	if err := SecureDir(dir); err != nil {
		return nil, err
	}
	name := filepath.Join(dir, tokenFile)
	secret, err := statefile.ReadPrivate(name, secretBytes)
	if errors.Is(err, fs.ErrNotExist) {
		secret, err = makeSecret(name)
	}
	if err != nil {
		return nil, fmt.Errorf("open the join tokens' secret: %w", err)
	}
	if len(secret) != secretBytes {
		return nil, fmt.Errorf("open the join tokens' secret: %s is damaged (%d bytes instead of %d); remove it: pending jobs must then be started anew",
			name, len(secret), secretBytes)
	}
	return &JoinTokens{secret: secret}, nil
}

func makeSecret(name string) ([]byte, error) {
	secret := make([]byte, secretBytes)
	_, _ = rand.Read(secret) // never fails
	err := statefile.WriteNew(statefile.OS{}, name, secret)
	if errors.Is(err, fs.ErrExist) { // another process was faster
		return statefile.ReadPrivate(name, secretBytes)
	}
	return secret, err
}

// Mint makes a launch's token. The expiry counts in whole seconds.
func (t *JoinTokens) Mint(launch string, expires time.Time) string {
	return t.mint(forLaunch, launch, expires)
}

// Check tells whether a token is the launch's and still good: nil, ErrTokenInvalid or ErrTokenExpired.
func (t *JoinTokens) Check(token, launch string, now time.Time) error {
	return t.check(forLaunch, token, launch, now)
}

// MintGateway makes a token for a gateway of that name.
func (t *JoinTokens) MintGateway(name string, expires time.Time) string {
	return t.mint(forGateway, name, expires)
}

// CheckGateway is Check for tokens of MintGateway.
func (t *JoinTokens) CheckGateway(token, name string, now time.Time) error {
	return t.check(forGateway, token, name, now)
}

func (t *JoinTokens) mint(purpose, subject string, expires time.Time) string {
	raw := binary.BigEndian.AppendUint64(nil, uint64(max(expires.Unix(), 0)))
	raw = append(raw, t.mac(purpose, subject, raw)...)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(raw)
}

func (t *JoinTokens) check(purpose, token, subject string, now time.Time) error {
	text, ok := strings.CutPrefix(token, tokenPrefix)
	if !ok || len(text) != base64.RawURLEncoding.EncodedLen(tokenBytes) {
		return ErrTokenInvalid
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return ErrTokenInvalid
	}
	expiry, mac := raw[:8], raw[8:]
	if !hmac.Equal(mac, t.mac(purpose, subject, expiry)) {
		return ErrTokenInvalid
	}
	if uint64(max(now.Unix(), 0)) >= binary.BigEndian.Uint64(expiry) {
		return ErrTokenExpired
	}
	return nil
}

func (t *JoinTokens) mac(purpose, subject string, expiry []byte) []byte {
	h := hmac.New(sha256.New, t.secret)
	h.Write([]byte(purpose + "\x00" + subject + "\x00"))
	h.Write(expiry)
	return h.Sum(nil)
}
