package slurm

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/penstock/penstock/tests/slurm/testbed"
)

// controlSocket is where the suite on the login node asks for what only root can do.
func controlSocket(dir string) string {
	return filepath.Join(dir, "home", testbed.Alice.Name, "control")
}

// control answers the suite: one line with a verb and a word, one line back.
func control(ctx context.Context, t *testing.T, b *testbed.Bed) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", controlSocket(b.Dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(controlSocket(b.Dir), testbed.Alice.UID, testbed.Alice.UID); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(c).ReadString('\n')
			answer, err := obey(ctx, b, strings.Fields(line))
			if err != nil {
				answer = "error " + strings.ReplaceAll(err.Error(), "\n", " ")
			}
			fmt.Fprintln(c, answer)
			_ = c.Close()
		}
	}()
	return func() {
		_ = l.Close()
		<-ended
	}
}

func obey(ctx context.Context, b *testbed.Bed, words []string) (string, error) {
	if len(words) != 2 {
		return "", fmt.Errorf("%q is no order", words)
	}
	switch verb, word := words[0], words[1]; verb {
	case "off", "on":
		for _, m := range b.All() {
			if m.Name == word && verb == "off" {
				return "ok", m.PowerOff(ctx)
			} else if m.Name == word {
				return "ok", m.PowerOn(ctx)
			}
		}
		return "", fmt.Errorf("no machine is called %q", word)
	case "slurmctld":
		switch word {
		case "stop":
			return "ok", b.StopSlurmctld()
		case "start":
			return "ok", b.StartSlurmctld(ctx)
		case "freeze":
			return "ok", b.SignalSlurmctld(syscall.SIGSTOP)
		case "thaw":
			return "ok", b.SignalSlurmctld(syscall.SIGCONT)
		}
	case "processes":
		return fmt.Sprint(len(b.WithVariable("PENSTOCK_LAUNCH", word))), nil
	}
	return "", fmt.Errorf("%q is no order", words)
}

// ask is the suite's side of control.
func ask(t *testing.T, dir, verb, word string) string {
	t.Helper()
	c, err := net.Dial("unix", controlSocket(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintln(c, verb, word)
	answer, err := bufio.NewReader(c).ReadString('\n')
	answer = strings.TrimSpace(answer)
	if err != nil || strings.HasPrefix(answer, "error") {
		t.Fatalf("%s %s: %s %v", verb, word, answer, err)
	}
	return answer
}
