package allocation

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"time"
)

// Handler takes orders from whom authorize accepts by the TLS connection; nobody else gets beyond it.
func (k *Keeper) Handler(authorize func(*tls.ConnectionState) error) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, _ *http.Request) { answer(w, k.State()) })
	mux.HandleFunc("POST /start", func(w http.ResponseWriter, r *http.Request) {
		o, err := decode[Order](r.Body)
		if err != nil {
			say(w, err)
			return
		}
		t, err := k.start(o)
		if err != nil {
			say(w, err)
			return
		}
		answer(w, t)
	})
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, r *http.Request) {
		h, err := decode[halt](r.Body)
		switch {
		case err != nil:
		case h.Forget:
			err = k.drop(h.Job)
		default:
			k.halt(h)
		}
		say(w, err)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := authorize(r.TLS); err != nil {
			http.Error(w, "not for you", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// say answers an order. A keeper that says no has done nothing.
func say(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	answer(w, struct{}{})
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the other side has gone
}

// NewCertificate makes a keeper's key, which never leaves the process, and the certificate for its Member file.
func NewCertificate(now time.Time) (cert tls.Certificate, certPEM string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return cert, "", fmt.Errorf("make the keeper's key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return cert, "", fmt.Errorf("make the keeper's certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "penstock keeper"}, DNSNames: []string{ServerName},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(90 * 24 * time.Hour), // longer than any job; clocks of nodes differ
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return cert, "", fmt.Errorf("make the keeper's certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), nil
}
