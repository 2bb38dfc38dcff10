package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync/atomic"
	"time"
)

// Holder holds a process's current certificate while others take its place. It starts nothing: its owner's loop waits
// until RenewAt and calls Renew. Safe for concurrent use; only one goroutine renews.
type Holder struct {
	cert atomic.Pointer[tls.Certificate]
}

// NewHolder returns a Holder of a certificate from Issue or KeyPair.
func NewHolder(cert tls.Certificate) *Holder {
	h := &Holder{}
	h.cert.Store(&cert)
	return h
}

// Certificate returns the current certificate. It is what ClientConfig and ServerConfig take as own.
func (h *Holder) Certificate() *tls.Certificate { return h.cert.Load() }

// RenewAt is when a third of the certificate's lifetime has gone by: two thirds remain to outlive an absent controller.
func (h *Holder) RenewAt() time.Time {
	leaf := h.cert.Load().Leaf
	issued := leaf.NotBefore.Add(skew)
	return issued.Add(leaf.NotAfter.Sub(issued) / 3)
}

// Due tells whether it is time to renew.
func (h *Holder) Due(now time.Time) bool { return !now.Before(h.RenewAt()) }

// Renew makes a new key, has it signed, checks the answer and puts it in place of the current certificate, which stays
// where anything fails. sign sends the request to whoever holds the authority.
func (h *Holder) Renew(ctx context.Context, pool *x509.CertPool, sign func(ctx context.Context, csrDER []byte) (leafPEM []byte, err error)) error {
	csr, key, err := NewCSR()
	if err != nil {
		return err
	}
	leafPEM, err := sign(ctx, csr)
	if err != nil {
		return fmt.Errorf("renew certificate: %w", err)
	}
	cert, err := KeyPair(leafPEM, key)
	if err != nil {
		return fmt.Errorf("renew certificate: %w", err)
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return fmt.Errorf("renew certificate: the answer is not signed by this installation: %w", err)
	}
	was, err := FromCert(h.cert.Load().Leaf)
	if err != nil {
		return err
	}
	if is, err := FromCert(cert.Leaf); err != nil || is != was {
		return fmt.Errorf("renew certificate: %w: the answer names %s instead of %s", ErrWrongPeer, is, was)
	}
	h.cert.Store(&cert)
	return nil
}
