package sim

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

const (
	rankBeat      = 500 * time.Millisecond
	rankSilence   = 10 * time.Second // without a beat for so long a rank is lost
	rankHandshake = 10 * time.Second
	rankJoin      = 10 * time.Minute // ranks of one engine start within this time
	rankLine      = 4096
)

// rankMessage is one line between ranks. Only the fields that are set have a meaning.
type rankMessage struct {
	Challenge   string `json:"challenge,omitempty"`   // 0 asks
	Rank        int    `json:"rank,omitempty"`        // who joins
	Nodes       int    `json:"nodes,omitempty"`       // how many it expects
	Proof       string `json:"proof,omitempty"`       // that it knows the group's secret
	Refused     string `json:"refused,omitempty"`     // why it may not join
	Loaded      bool   `json:"loaded,omitempty"`      // it has read its weights
	Fingerprint string `json:"fingerprint,omitempty"` // of them
	Beat        bool   `json:"beat,omitempty"`        // it lives
	Bye         bool   `json:"bye,omitempty"`         // the engine ends as it should
	Lost        string `json:"lost,omitempty"`        // the engine ends because of this
}

// rankConn is a connection between rank 0 and another.
type rankConn struct {
	conn net.Conn
	in   *bufio.Scanner
}

func newRankConn(c net.Conn) *rankConn {
	in := bufio.NewScanner(c)
	in.Buffer(make([]byte, 0, rankLine), rankLine)
	return &rankConn{c, in}
}

// send writes one message. It may be called while another goroutine receives, but not by two at once.
func (c *rankConn) send(m rankMessage) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(rankSilence)); err != nil {
		return err
	}
	_, err = c.conn.Write(append(b, '\n'))
	return err
}

// receive waits for one message, at most for d.
func (c *rankConn) receive(d time.Duration) (m rankMessage, err error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		return m, err
	}
	if !c.in.Scan() {
		var timeout net.Error
		switch err := c.in.Err(); {
		case err == nil:
			return m, errors.New("its connection closed")
		case errors.As(err, &timeout) && timeout.Timeout():
			return m, fmt.Errorf("nothing was heard of it for %s", d)
		default:
			return m, err
		}
	}
	if err := json.Unmarshal(c.in.Bytes(), &m); err != nil {
		return m, fmt.Errorf("what it said is no message: %w", err)
	}
	return m, nil
}

// proof shows knowledge of the group's secret.
func proof(secret, challenge string, rank int) string {
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "%s/%d", challenge, rank)
	return hex.EncodeToString(mac.Sum(nil))
}
