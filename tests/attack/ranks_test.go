package attack

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// attackRanks: an engine of two ranks has a TCP port at which they meet, and no TLS there. Status must say that it is
// open. The attacker tries to be a rank with all that the process table tells.
func attackRanks(t *testing.T, s *siege) {
	var meets []string
	for address, p := range s.ports {
		if p.Protection == "none" {
			meets = append(meets, address)
			if warned := s.runVictim(t, "status"); !strings.Contains(warned, "warning: "+address+" is open to every user") {
				t.Errorf("HOLE: status does not warn of %s: %s", address, warned)
			}
		}
	}
	if len(meets) != 1 {
		t.Fatalf("where do the ranks meet? %v", meets)
	}
	s.fails(t, "be a rank", meets, "it does not know the secret")
}

func init() { tricks["be a rank"] = beRank }

func beRank(in []byte, n *notes) error {
	var meets []string
	if err := json.Unmarshal(in, &meets); err != nil {
		return err
	}
	words, err := wordsOf("gang-")
	if err != nil {
		return err
	}
	for _, address := range meets {
		for _, w := range words {
			n.try("be a rank by a word of the process table", address+" by "+w, sayRank(address, w))
		}
	}
	return nil
}

// wordsOf are all pieces of all arguments in the process table that have to do with a launch.
func wordsOf(launch string) (words []string, err error) {
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{"": true}
	for _, name := range names {
		text, _ := os.ReadFile(name)
		if !strings.Contains(string(text), launch) {
			continue
		}
		for _, w := range strings.FieldsFunc(string(text), func(r rune) bool { return strings.ContainsRune("\x00/.", r) }) {
			seen[w] = true
		}
	}
	for w := range seen {
		words = append(words, w)
	}
	if len(words) < 10 {
		return nil, fmt.Errorf("the process table tells only %v", words)
	}
	return words, nil
}

// sayRank answers the challenge of rank 0 with a guess at the secret.
func sayRank(address, guess string) error {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	in := bufio.NewScanner(conn)
	var said struct{ Challenge, Refused string }
	if !in.Scan() || json.Unmarshal(in.Bytes(), &said) != nil || said.Challenge == "" {
		return errors.New("no challenge")
	}
	mac := hmac.New(sha256.New, []byte(guess))
	fmt.Fprintf(mac, "%s/%d", said.Challenge, 1)
	fmt.Fprintf(conn, `{"rank":1,"nodes":2,"proof":%q}`+"\n", hex.EncodeToString(mac.Sum(nil)))
	if !in.Scan() || json.Unmarshal(in.Bytes(), &said) != nil {
		return errors.New("cut off")
	}
	if strings.Contains(said.Refused, "it does not know the secret") {
		return errors.New("it does not know the secret")
	}
	return nil
}
