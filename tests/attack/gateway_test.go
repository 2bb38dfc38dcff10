package attack

import (
	"bufio"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// knockArgs are the gateways, and keys that are nearly right.
type knockArgs struct {
	Hosts []string
	Tries []door
}

// door is one way to show a key. Alike says that nothing in the answer may tell it from a key that was made up.
type door struct {
	What   string
	Header string // a whole line, or empty
	Query  string
	Alike  bool
}

// attackGateway guesses keys, and tries to reach what needs one by other ways.
func attackGateway(t *testing.T, s *siege) {
	hosts := []string{hostOf(t, s.client.URL), hostOf(t, s.second)}
	before := s.counter(t, "penstock_gateway_refused_keys_total")
	list := s.fails(t, "keys", knockArgs{Hosts: hosts, Tries: s.doors(t)}, "answered 401")
	sameAnswers(t, list)
	if after := s.counter(t, "penstock_gateway_refused_keys_total"); after-before < float64(len(s.doors(t))) {
		t.Errorf("the counter of refused keys went from %v to %v", before, after)
	}
	s.works(t, "keys", knockArgs{Hosts: hosts, Tries: []door{{What: "the right key", Header: "Authorization: Bearer " + s.client.Key}}})
	// A header that is too long is answered and cut off while it still comes: which of the two is seen is chance.
	s.fails(t, "paths", knockArgs{Hosts: hosts}, "answered 400", "answered 401", "answered 403", "answered 404", "answered 405", "answered 431",
		"connection reset by peer")
}

// doors are wrong keys of every kind. The attacker knows even the key's public part.
func (s *siege) doors(t *testing.T) (list []door) {
	t.Helper()
	key := s.client.Key
	id, secret, _ := strings.Cut(strings.TrimPrefix(key, "psk-"), "-")
	hash := sha256.Sum256([]byte(key))
	other := s.rivalKey(t)
	_, otherSecret, _ := strings.Cut(strings.TrimPrefix(other, "psk-"), "-")
	changed := func(at int) string {
		b := []byte(key)
		b[at] = 'a' + (b[at]-'a'+1)%26
		return string(b)
	}
	for what, wrong := range map[string]string{
		"a key that was made up": "psk-aaaaaaaa-" + strings.Repeat("A", len(secret)), "the first character changed": changed(len(key) - len(secret)),
		"the last character but one changed": changed(len(key) - 2), "the key's public part alone": "psk-" + id,
		"the public part and no secret": "psk-" + id + "-", "the public part and another secret": "psk-" + id + "-" + otherSecret,
		"a key of another installation": other, "cut off": key[:len(key)-1], "made longer": key + "A", "in capitals": strings.ToUpper(key),
		"the key's hash": hex.EncodeToString(hash[:]), "the secret alone": secret, "with a quote": key + "'", "a very long key": "psk-" + strings.Repeat("a", 8<<10),
	} {
		list = append(list, door{What: what, Header: "Authorization: Bearer " + wrong, Alike: true}, door{What: what + ", as X-Api-Key", Header: "X-Api-Key: " + wrong, Alike: true})
	}
	return append(list,
		door{What: "no key"}, door{What: "an empty key", Header: "Authorization: Bearer "}, door{What: "the right key in the address", Query: "?api_key=" + key},
		door{What: "the right key in the address by another name", Query: "?key=" + key + "&token=" + key},
		door{What: "the right key as a cookie", Header: "Cookie: api_key=" + key},
		door{What: "the right key as a password", Header: "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("alice:"+key))},
		door{What: "a wrong key and then the right one", Header: "Authorization: Bearer psk-x\r\nAuthorization: Bearer " + key},
		door{What: "the right key for a proxy", Header: "Proxy-Authorization: Bearer " + key},
		door{What: "as somebody who was let in before", Header: "X-Forwarded-User: alice\r\nX-Forwarded-For: 127.0.0.1\r\nPenstock-Tenant: " + id},
	)
}

// rivalKey is a key of the attacker's own installation.
func (s *siege) rivalKey(t *testing.T) string {
	t.Helper()
	if s.ownKey == "" {
		s.ownKey = s.rival.MustRun(t.Context(), t, "key", "create", "mallory")
	}
	return s.ownKey
}

// sameAnswers compares what wrong keys were answered, byte by byte.
func sameAnswers(t *testing.T, list []outcome) {
	t.Helper()
	answers := map[string][]string{}
	for _, o := range list {
		if o.Informed != "" {
			answers[o.Informed] = append(answers[o.Informed], o.What)
		}
	}
	if len(answers) != 1 {
		t.Errorf("HOLE: wrong keys can be told apart: %q", answers)
	}
}

func init() {
	tricks["keys"] = tryKeys
	tricks["paths"] = tryPaths
}

func tryKeys(in []byte, n *notes) error {
	var args knockArgs
	if err := json.Unmarshal(in, &args); err != nil {
		return err
	}
	ask := `{"model":"tiny","messages":[{"role":"user","content":"Let me in."}],"max_tokens":2}`
	for _, d := range args.Tries {
		for _, host := range args.Hosts {
			header := "Host: x\r\n"
			if d.Header != "" {
				header += d.Header + "\r\n"
			}
			for _, request := range []string{
				"GET /v1/models" + d.Query + " HTTP/1.1\r\n" + header + "\r\n", "GET /metrics" + d.Query + " HTTP/1.1\r\n" + header + "\r\n",
				fmt.Sprintf("POST /v1/chat/completions%s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s", d.Query, header, len(ask), ask),
			} {
				status, answer, err := exchange(host, request)
				if err == nil && status != http.StatusOK {
					err = fmt.Errorf("answered %d", status)
				}
				o := n.of(d.What)
				n.try(d.What, host+" "+strings.SplitN(request, "\r\n", 2)[0], err)
				if d.Alike && !strings.Contains(request, "/metrics") {
					if o.Informed != "" && o.Informed != answer {
						answer = o.Informed + " or " + answer
					}
					o.Informed = answer
				}
			}
		}
	}
	return nil
}

// exchange sends raw bytes and returns the status of the answer, and the answer without what is never the same twice.
func exchange(host, request string) (status int, answer string, err error) {
	conn, err := net.DialTimeout("tcp", host, patience)
	if err != nil {
		return 0, "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, request); err != nil {
		return 0, "", err
	}
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	resp.Header.Del("Date")
	resp.Header.Del("X-Request-Id")
	return resp.StatusCode, fmt.Sprint(resp.Status, resp.Header, string(body)), err
}

// tryPaths asks for what needs a key, without one, by other names; and for what a gateway should not have at all.
func tryPaths(in []byte, n *notes) error {
	var args knockArgs
	if err := json.Unmarshal(in, &args); err != nil {
		return err
	}
	for _, host := range args.Hosts {
		for _, line := range []string{
			"GET /metrics/", "GET /METRICS", "GET //metrics", "GET /v1/../metrics", "GET /health/../metrics", "GET /v1/%2e%2e/metrics", "GET /%6detrics",
			"GET /metrics;x", "GET /metrics%00", "GET /./metrics", "GET http://" + host + "/metrics", "GET http://127.0.0.1:1/metrics", "HEAD /metrics",
			"GET //v1/models", "GET /v1/models/", "GET /v1/models/..%2f..%2fmetrics", "GET /v1/models/tiny", "GET /v1%2fmodels", "POST /v1/models",
			"GET /v1/models/../../penstock/metrics", "GET /penstock/metrics", "POST /penstock/gang", "GET /debug/pprof/", "GET /debug/vars",
			"POST /penstock.v1.ControlService/Status", "POST /v1/load_lora_adapter", "POST /reset_prefix_cache", "POST /sleep", "POST /abort_request",
			"GET /server_info", "POST /collective_rpc", "POST /tokenize", "POST /v1/embeddings", "POST /v1/responses", "POST /v1/completions",
			"TRACE /v1/models", "OPTIONS *", "CONNECT 127.0.0.1:22", "PUT /v1/models", "DELETE /v1/models/tiny",
		} {
			status, _, err := exchange(host, line+" HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
			if err == nil && status != http.StatusOK {
				err = fmt.Errorf("answered %d", status)
			}
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = errors.New("answered 400") // cut off without a word
			}
			n.try("ask without a key: "+line, host, err)
		}
		status, _, err := exchange(host, "GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Long: "+strings.Repeat("a", 100<<10)+"\r\n\r\n")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("answered %d", status)
		} else if err != nil {
			err = fmt.Errorf("answered 431 or cut off: %w", err)
		}
		n.try("send a header of 100 KiB", host, err)
	}
	return nil
}
