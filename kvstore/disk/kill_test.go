package disk

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/penstock/penstock/kvstore"
)

// childDir has the test program put blocks into a folder, from a number on, and print each number that was put.
const (
	childDir  = "PENSTOCK_TEST_DISK_DIR"
	childFrom = "PENSTOCK_TEST_DISK_FROM"
	childKeys = 400
	childSize = 9000
)

// TestChild is no test of its own: it is the program that TestKill kills.
func TestChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		return
	}
	from, _ := strconv.Atoi(os.Getenv(childFrom))
	s := mustOpen(t, Options{Dir: dir, Budget: 2 << 20})
	fmt.Println("open")
	for i := from; ; i++ {
		k := key(i%childKeys, 0)
		if i%7 == 3 {
			if err := s.Delete(context.Background(), k); err != nil {
				t.Fatal(err)
			}
		} else {
			mustPut(t, s, k, i, childSize)
		}
		fmt.Println(i)
	}
}

// child is a process of this test program that puts blocks until it is killed.
type child struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	out   *os.File
}

func (c *child) kill() { _ = c.cmd.Process.Kill() }

// wait waits for the end of a child that was killed.
func (c *child) wait() {
	_ = c.cmd.Wait()
	_ = c.out.Close()
}

func startChild(t *testing.T, dir, from string) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run", "^TestChild$")
	cmd.Env = append(os.Environ(), childDir+"="+dir, childFrom+"="+from)
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	c := &child{cmd, bufio.NewScanner(r), r}
	if !c.lines.Scan() || c.lines.Text() != "open" {
		t.Fatalf("the child says %q (%v)", c.lines.Text(), c.lines.Err())
	}
	return c
}

// TestKill kills a process in the middle of its puts, ten times over, in one folder. All that it had reported is there or was
// evicted, never older and never wrong; what it had deleted stays away.
func TestKill(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kv")
	state := map[int]int{} // key -> version, 0 = deleted
	next := 1
	for round := range 10 {
		c := startChild(t, dir, strconv.Itoa(next))
		for n := 0; c.lines.Scan(); n++ {
			if n == 20+11*round {
				c.kill() // while it goes on
			}
			i, err := strconv.Atoi(c.lines.Text())
			if err != nil {
				t.Fatal(err)
			}
			state[i%childKeys] = i
			if i%7 == 3 {
				state[i%childKeys] = 0
			}
			next = i + 1
		}
		c.wait()
		found := checkChild(t, dir, state, next)
		t.Logf("round %d: %d calls so far, %d blocks are there", round, next, found)
		next++
	}
}

// checkChild looks at what is there; the call after the last that was reported may have taken place.
func checkChild(t *testing.T, dir string, state map[int]int, last int) (found int) {
	t.Helper()
	s := mustOpen(t, Options{Dir: dir, Budget: 2 << 20})
	defer mustClose(t, s)
	for n := range childKeys {
		k := key(n, 0)
		b, err := s.Get(t.Context(), k)
		if err != nil {
			if !kvstore.IsMiss(err) {
				t.Fatal(err)
			}
			continue
		}
		found++
		ok := false
		for _, v := range []int{state[n], last} {
			if v != 0 && v%childKeys == n && string(b.Bytes()) == string(content(k, v, childSize)) {
				ok, state[n] = true, v
			}
		}
		if !ok {
			t.Errorf("%s is neither version %d nor missing", k, state[n])
		}
		b.Release()
	}
	if c := s.Stats().Corrupt; c != 0 {
		t.Errorf("%d blocks are corrupt", c)
	}
	return found
}
