package process

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

const (
	statLine   = "4217 (VLLM::Worker) 1)) S 4100 4099 4098 0 -1 4194560 1 2 3 4 150 50 20 10 20 0 300 0 987654 1 2 3\n"
	statLoaded = "9 (sh) S 8 9 9 0 -1 4194560 1 2 3 4 150 50 20 10 20 0 1 0 987654 1 2 3 4 5 6 7 8 9 0 0 0 0 0 0 17 0 0 0 0 0 0 1 2 3 4 5 6 7 0\n"
	statKernel = "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 31 0 0\n"
	statEnding = "9 (sh) R 8 9 9 0 -1 4194564 1 2 3 4 150 50 20 10 20 0 1 0 987654 0 0 3 0 0 0 7 8 9 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 9\n"
)

func TestParseStat(t *testing.T) {
	t.Parallel()
	got, err := parseStat([]byte(statLine))
	if err != nil {
		t.Fatal(err)
	}
	want := Proc{
		PID: 4217, PPID: 4100, PGID: 4099, SID: 4098, State: 'S', Threads: 300, Start: 987654,
		Command: "VLLM::Worker) 1)", CPU: 2300 * time.Millisecond,
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestParseStatTellsWhatEnds(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]Proc{
		statLine:   {},
		statLoaded: {loaded: true},
		statKernel: {loaded: true},
		statEnding: {ending: true},
	} {
		if p, err := parseStat([]byte(line)); err != nil || p.ending != want.ending || p.loaded != want.loaded {
			t.Errorf("%s: ending %v, loaded %v, %v", line, p.ending, p.loaded, err)
		}
	}
}

func TestDeadIsWithoutThreads(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		state   byte
		threads int
		want    bool
	}{{'S', 1, false}, {'D', 1, false}, {'T', 1, false}, {'Z', 1, true}, {'Z', 0, true}, {'X', 0, true}, {'Z', 8, false}} {
		if got := (Proc{State: test.state, Threads: test.threads}).dead(); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}

func TestParseStatRefuses(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		"", "12", "12 (sh", "(sh) S 1", "12 )sh( S 1", "12 (sh) S 1 2 3",
		strings.Replace(statLine, "4100", "x", 1),
		strings.Replace(statLine, " S ", " SS ", 1),
		strings.Replace(statLine, "987654", "-1", 1),
	} {
		if p, err := parseStat([]byte(line)); err == nil {
			t.Errorf("%q read as %+v", line, p)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte(statLine))
	f.Add([]byte(statLoaded))
	f.Add([]byte("1 (a\n) b) Z 0 1 1 0 -1 1 1 1 1 1 0 0 0 0 1 1 1 1 0"))
	f.Fuzz(func(t *testing.T, line []byte) {
		p, err := parseStat(line)
		if err == nil && (p.CPU < 0 || strings.ToValidUTF8(p.Command, "") != p.Command) {
			t.Errorf("%q read as %+v", line, p)
		}
	})
}

func TestScanFindsThisProcess(t *testing.T) {
	t.Parallel()
	all, err := scan()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if p.PID == os.Getpid() {
			if p.PPID != os.Getppid() || p.dead() {
				t.Errorf("this process shows as %+v", p)
			}
			return
		}
	}
	t.Error("this process is not listed")
}

func TestReadEnvironTakesLongOnes(t *testing.T) {
	t.Parallel()
	long := "LONG=" + strings.Repeat("x", 100_000)
	p, _ := start(t, Spec{Env: []string{long}}, `sleep 1000`)
	// The kernel shows no environment at all for a moment after the program was started.
	eventually(t, "the whole environment is there", func() bool {
		environ, err := readEnviron(procPath(p.PID(), "environ"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(environ), long) && p.carriedBy(p.PID())
	})
}

func TestMarkOf(t *testing.T) {
	t.Parallel()
	for environ, want := range map[string]Mark{
		"":                                 {},
		"A=1\x00PENSTOCK_LAUNCH=l\x00":     {Launch: "l"},
		"PENSTOCK_LAUNCH=l\x00B":           {Launch: "l"},
		"XPENSTOCK_LAUNCH=l\x00":           {},
		"PENSTOCK_LAUNCHER=l\x00":          {},
		"PENSTOCK_LAUNCH\x00":              {},
		"A=PENSTOCK_LAUNCH=l\x00":          {},
		"PENSTOCK_RUN=a=b\x00":             {Run: "a=b"},
		"PENSTOCK_RUN=1\x00PENSTOCK_RUN=2": {Run: "1"},
	} {
		if got, _ := markOf([]byte(environ)); got != want {
			t.Errorf("%q: %+v, want %+v", environ, got, want)
		}
	}
	all := Mark{Launch: "l", Run: "r", Rank: "3"}
	got, nonce := markOf([]byte(strings.Join(append(all.Environ(), EnvProcess+"=n"), "\x00")))
	if got != all || nonce != "n" {
		t.Errorf("round trip: %+v, %q", got, nonce)
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	var procs []Proc
	for i := range 7 {
		procs = append(procs, Proc{PID: i, Command: "vllm", State: 'D'})
	}
	if got, want := describe(procs[:1]), "0 (vllm, state D)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := describe(procs); !strings.HasSuffix(got, "4 (vllm, state D), 2 more") {
		t.Errorf("got %q", got)
	}
	if got := describe(nil); got != "unknown" {
		t.Errorf("got %q", got)
	}
}

// helpRead reads $FILE, says so, and stays.
func helpRead() error {
	b, err := os.ReadFile(os.Getenv("FILE"))
	if err != nil {
		return err
	}
	fmt.Println(len(b))
	select {}
}

func TestIOCountsWhatTheTreeReads(t *testing.T) {
	t.Parallel()
	const size = 8 << 20
	file := t.TempDir() + "/weights"
	if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	out := NewTail(1, 100)
	p, _ := start(t, Spec{
		Argv: []string{"sh", "-c", `"$0" & wait`, os.Args[0]}, Stdout: out,
		Env: []string{envHelper + "=read", "FILE=" + file},
	}, "")
	eventually(t, "the file is read", func() bool { return len(out.Lines()) > 0 })
	tree, err := p.Tree()
	if err != nil {
		t.Fatal(err)
	}
	usage := IO(tree)
	if usage.ReadChars < size || usage.ReadChars > 2*size || usage.Hidden != 0 {
		t.Errorf("got %+v after reading %d bytes", usage, size)
	}
	if err := p.Stop(within(t), 0); err != nil {
		t.Fatal(err)
	}
	if usage := IO(tree); usage.ReadChars != 0 || usage.Hidden != 0 {
		t.Errorf("got %+v of a tree that is gone", usage)
	}
}

const ioFile = "rchar: 4294967296000\nwchar: 1\nsyscr: 2\nsyscw: 3\nread_bytes: 4096\nwrite_bytes: 0\ncancelled_write_bytes: 0\n"

func TestParseIO(t *testing.T) {
	t.Parallel()
	if chars, read, err := parseIO([]byte(ioFile)); chars != 4294967296000 || read != 4096 || err != nil {
		t.Errorf("got %d, %d, %v", chars, read, err)
	}
	for _, bad := range []string{"", "rchar: 1\n", "rchar: 1\nread_bytes: -1\n", "rchar: 1\nrchar: 2\n"} {
		if _, _, err := parseIO([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func FuzzParseIO(f *testing.F) {
	f.Add([]byte(ioFile))
	f.Fuzz(func(t *testing.T, b []byte) {
		if chars, read, err := parseIO(b); err != nil && (chars != 0 || read != 0) {
			t.Errorf("numbers beside the error %v", err)
		}
	})
}
