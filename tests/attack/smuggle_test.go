package attack

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

type smuggleArgs struct {
	Hosts []string
	Key   string
}

// smuggle sends requests of which two readers could believe different things. One that has a key hides one that has none:
// it must be read as one request, or be refused, and what is left over must ask for a key of its own.
func smuggle(t *testing.T, s *siege) {
	key := s.victim.MustRun(t.Context(), t, "key", "create", "mallory-smuggler")
	s.awaitKey(t, []string{s.client.URL, s.second}, key, http.StatusOK)
	args := smuggleArgs{Hosts: []string{hostOf(t, s.client.URL), hostOf(t, s.second)}, Key: key}
	s.fails(t, "smuggle", args, "nothing came through")
	s.works(t, "smuggle nothing", args)
}

func init() {
	tricks["smuggle"] = trySmuggling
	tricks["smuggle nothing"] = smuggleNothing
}

const hidden = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"

func trySmuggling(in []byte, n *notes) error {
	var args smuggleArgs
	if err := json.Unmarshal(in, &args); err != nil {
		return err
	}
	body := chatBody("hello", "")
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	for _, host := range args.Hosts {
		for what, message := range map[string]string{
			"a length and chunks":               fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n%s%s", len(chunked)+len(hidden), chunked, hidden),
			"chunks and a short length":         "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked + hidden,
			"two lengths":                       fmt.Sprintf("Content-Length: %d\r\nContent-Length: %d\r\n\r\n%s%s", len(body), len(body)+len(hidden), body, hidden),
			"two lengths in one line":           fmt.Sprintf("Content-Length: %d, %d\r\n\r\n%s%s", len(body), len(body)+len(hidden), body, hidden),
			"a length with a sign":              fmt.Sprintf("Content-Length: +%d\r\n\r\n%s%s", len(body), body, hidden),
			"a blank before the colon":          fmt.Sprintf("Content-Length : %d\r\n\r\n%s%s", len(body), body, hidden),
			"a folded header":                   fmt.Sprintf("Content-Length: %d\r\nX-Fold: a\r\n Transfer-Encoding: chunked\r\n\r\n%s%s", len(body), body, hidden),
			"chunks by another name":            fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: xchunked\r\n\r\n%s%s", len(body), body, hidden),
			"chunks, and identity":              "Transfer-Encoding: chunked, identity\r\n\r\n" + chunked + hidden,
			"chunks with bare line feeds":       fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\n%s\n0\n\n%s", len(body), body, hidden),
			"a header with bare line feeds":     fmt.Sprintf("Content-Length: %d\nX-A: b\n\n%s%s", len(body), body, hidden),
			"a chunk's extension with a feed":   fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x;a\nb\r\n%s\r\n0\r\n\r\n%s", len(body), body, hidden),
			"a chunk longer than it says":       fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s%s\r\n0\r\n\r\n", len(body), body, hidden),
			"a header hidden by a zero":         fmt.Sprintf("X-A: b\x00\r\nContent-Length: %d\r\n\r\n%s%s", len(body), body, hidden),
			"a second request for a switch":     fmt.Sprintf("Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nContent-Length: %d\r\n\r\n%s%s", len(body), body, hidden),
			"a second request behind the first": fmt.Sprintf("Content-Length: %d\r\n\r\n%s%s", len(body), body, hidden),
			"a trailer with a key":              fmt.Sprintf("Transfer-Encoding: chunked\r\nTrailer: Authorization\r\n\r\n%x\r\n%s\r\n0\r\nAuthorization: Bearer %s\r\n\r\n%s", len(body), body, args.Key, hidden),
		} {
			request := fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s", args.Key, message)
			n.try("hide a request behind "+what, host, through(host, request))
		}
	}
	return nil
}

// through reads all answers on a connection; nil = the hidden request was let in.
func through(host, request string) error {
	answers, err := readAnswers(host, request)
	if err != nil {
		return err
	}
	for i, status := range answers {
		if i > 0 && status == http.StatusOK {
			return nil
		}
	}
	return errors.New("nothing came through")
}

// readAnswers sends bytes and reads answers until there are no more.
func readAnswers(host, request string) (statuses []int, err error) {
	conn, err := net.DialTimeout("tcp", host, patience)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	go func() {
		_, _ = io.WriteString(conn, request)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	in := bufio.NewReader(conn)
	for {
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			return statuses, nil //nolint:nilerr // the end of the connection is the end of the answers
		}
		statuses = append(statuses, resp.StatusCode)
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return statuses, nil //nolint:nilerr // as above
		}
		resp.Body.Close()
	}
}

// smuggleNothing is the control: two requests, each with a key, are two answers.
func smuggleNothing(in []byte, n *notes) error {
	var args smuggleArgs
	if err := json.Unmarshal(in, &args); err != nil {
		return err
	}
	body := chatBody("hello", "")
	one := fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", args.Key, len(body), body)
	for _, host := range args.Hosts {
		n.try("two requests on one connection", host, through(host, one+one))
	}
	return nil
}
