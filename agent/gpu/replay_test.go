package gpu

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var begin = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// recording is of three samples, after 0, 1 and 3 s, whose used memory counts them.
func recording(t *testing.T) *bytes.Buffer {
	t.Helper()
	var buf bytes.Buffer
	for i, after := range []time.Duration{0, time.Second, 3 * time.Second} {
		s := Sample{At: begin.Add(after), Source: "nvml", GPUs: []GPU{{
			UUID: "GPU-a", MemoryTotal: of(80 * gib), MemoryUsed: of(uint64(i)), XIDs: []uint32{79}, Processes: []Process{{PID: 5}},
		}}}
		if err := Record(&buf, s); err != nil {
			t.Fatal(err)
		}
	}
	return &buf
}

func replay(t *testing.T, opts ReplayOptions) *Replay {
	t.Helper()
	p, err := NewReplay(recording(t), opts)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestReplayInOrder(t *testing.T) {
	t.Parallel()
	p := replay(t, ReplayOptions{})
	got := checkSampler(t, p)
	want := Sample{At: begin.Add(3 * time.Second), Source: "replay", GPUs: []GPU{{
		UUID: "GPU-a", MemoryTotal: of(80 * gib), MemoryUsed: of(uint64(2)), XIDs: []uint32{79}, Processes: []Process{{PID: 5}},
	}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := p.Sample(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

func TestReplayLoops(t *testing.T) {
	t.Parallel()
	p := replay(t, ReplayOptions{Loop: true})
	for i := range 7 {
		s, err := p.Sample(t.Context())
		if err != nil || *s.GPUs[0].MemoryUsed != uint64(i%3) {
			t.Errorf("call %d: %+v, %v", i, s, err)
		}
	}
}

func TestReplayByTime(t *testing.T) {
	t.Parallel()
	const ended = -1
	for _, test := range []struct {
		loop   bool
		after  time.Duration // since the first call
		sample int
		at     time.Duration
	}{
		{false, 0, 0, 0},
		{false, 999 * time.Millisecond, 0, 0},
		{false, time.Second, 1, time.Second},
		{false, 2 * time.Second, 1, time.Second},
		{false, 4 * time.Second, 2, 3 * time.Second},
		{false, 5 * time.Second, ended, 0},
		{true, 5 * time.Second, 0, 5 * time.Second},
		{true, 6500 * time.Millisecond, 1, 6 * time.Second},
		{true, -time.Hour, 0, 0}, // the clock was set back
	} {
		now := begin.Add(1000 * time.Hour)
		p := replay(t, ReplayOptions{Clock: func() time.Time { return now }, Loop: test.loop})
		start := now
		if _, err := p.Sample(t.Context()); err != nil {
			t.Fatal(err)
		}
		now = start.Add(test.after)
		s, err := p.Sample(t.Context())
		if test.sample == ended {
			if !errors.Is(err, io.EOF) {
				t.Errorf("%+v: %v", test, err)
			}
			continue
		}
		if err != nil || *s.GPUs[0].MemoryUsed != uint64(test.sample) || !s.At.Equal(start.Add(test.at)) {
			t.Errorf("%+v: sample %d of %v, %v", test, *s.GPUs[0].MemoryUsed, s.At, err)
		}
	}
}

func TestReplayByTimeKeepsThePromises(t *testing.T) {
	t.Parallel()
	checkSampler(t, replay(t, ReplayOptions{Clock: time.Now}))
}

func TestReplayOfOneSampleLastsASecond(t *testing.T) {
	t.Parallel()
	now := begin
	p, err := NewReplay(strings.NewReader(`{"At":"2026-01-01T00:00:00Z"}`), ReplayOptions{Clock: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	if s, err := p.Sample(t.Context()); err != nil || !s.At.Equal(begin) {
		t.Errorf("%v, %v", s, err)
	}
	now = begin.Add(time.Second)
	if _, err := p.Sample(t.Context()); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func TestNewReplayRefuses(t *testing.T) {
	t.Parallel()
	const good = `{"At":"2026-01-01T00:00:00Z"}` + "\n"
	for in, want := range map[string]string{
		"":                        "empty",
		"\n\n":                    "empty",
		good + "{":                "line 2: unexpected EOF",
		good + "\n" + `{"at":5}`:  "line 3: ",
		`{"GPUs":[]}`:             "line 1: no time",
		good[:len(good)-1] + good: "line 1: more than one value",
		`{"At":"2026-01-01T00:00:00Z","Power":1}`: `unknown field "Power"`,
		good + `{"At":"2025-01-01T00:00:00Z"}`:    "line 2: it is of 2025-01-01",
		strings.Repeat(" ", maxLine+1):            "token too long",
	} {
		if _, err := NewReplay(strings.NewReader(in), ReplayOptions{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", in, err, want)
		}
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestRecordSaysWhenItCannot(t *testing.T) {
	t.Parallel()
	if err := Record(failingWriter{}, Sample{}); !errors.Is(err, io.ErrShortWrite) {
		t.Error(err)
	}
	if err := Record(io.Discard, Sample{At: time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)}); err == nil {
		t.Error("a time that JSON cannot hold was recorded")
	}
}

func FuzzReplay(f *testing.F) {
	f.Add([]byte(`{"At":"2026-01-01T00:00:00Z","GPUs":[{"UUID":"a","MemoryUsed":5,"XIDs":[79]}]}` + "\n"))
	f.Add([]byte("\n{}\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		p, err := NewReplay(bytes.NewReader(in), ReplayOptions{})
		if err != nil {
			return
		}
		var again bytes.Buffer
		for {
			s, err := p.Sample(t.Context())
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := Record(&again, s); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := NewReplay(&again, ReplayOptions{}); err != nil {
			t.Errorf("recorded again: %v", err)
		}
	})
}
