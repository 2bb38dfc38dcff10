package jobspecs

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"pgregory.net/rapid"
)

func TestParseBytes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Bytes{
		"0": 0, "0B": 0, "1B": 1, "1KB": 1000, "1KiB": 1024, "500MB": 500_000_000, "64GiB": 64 << 30,
		"1.5GiB": 3 << 29, "0.5KiB": 512, "2TB": 2e12, "8388607TiB": 8388607 << 40, "0064MiB": 64 << 20,
	} {
		if got, err := ParseBytes(text); err != nil || got != want {
			t.Errorf("ParseBytes(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
}

func TestParseBytesRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                             "is no size",
		"64":                           "write 64GiB (1024) or 64GB (1000), or 64B for bytes",
		"64G":                          "write 64GiB (1024) or 64GB (1000)",
		"64k":                          "write 64KiB (1024) or 64KB (1000)",
		"64gib":                        "write 64GiB",
		"64 GiB":                       "write 64GiB",
		"64Gibibyte":                   "known are B, KB",
		"-1GiB":                        "is no size",
		"+1GiB":                        "is no size",
		"1e3B":                         "is no size",
		"0.1B":                         "is no whole number of bytes",
		"8388608TiB":                   "is too large",
		"1_000B":                       "is no size",
		strings.Repeat("9", 20) + "TB": "is too large",
		strings.Repeat("9", 99) + "B":  "is no size",
	} {
		if got, err := ParseBytes(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseBytes(%q) = %v, %v; want an error with %q", text, got, err, want)
		}
	}
}

func TestBytesShown(t *testing.T) {
	t.Parallel()
	for b, want := range map[Bytes][2]string{
		0:              {"0B", "0 B"},
		1023:           {"1023B", "1023 B"},
		1024:           {"1KiB", "1.0 KiB"},
		500_000_000:    {"500MB", "476.8 MiB"},
		64 << 30:       {"64GiB", "64.0 GiB"},
		3 << 29:        {"1536MiB", "1.5 GiB"},
		1_024_000:      {"1024KB", "1000.0 KiB"},
		85_520_809_984: {"81559MiB", "79.6 GiB"},
	} {
		if got := [2]string{b.String(), b.Human()}; got != want {
			t.Errorf("%d bytes are shown as %v, want %v", uint64(b), got, want)
		}
	}
}

func TestParseDuration(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "90s": 90 * time.Second, "1m30s": 90 * time.Second, "250ms": 250 * time.Millisecond,
		"2d": 48 * time.Hour, "1d12h": 36 * time.Hour, "1.5h": 90 * time.Minute, "36500d": 36500 * day, "10us": 10 * time.Microsecond,
	} {
		if got, err := ParseDuration(text); err != nil || got.Std() != want {
			t.Errorf("ParseDuration(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
}

func TestParseDurationRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                      "is no span of time",
		"60":                    "write 60ms, 60s, 60m or 60h",
		"1.5":                   "write 1.5ms",
		"24:00:00":              "write 24h",
		"1-12:30:00":            "write 1d12h30m",
		"90:30":                 "write 90m30s",
		"00:00":                 "write 0s",
		"12h1d":                 "is no span of time",
		"1.5d":                  "is no span of time",
		"-5m":                   "is no span of time",
		"+5m":                   "is no span of time",
		"5 m":                   "is no span of time",
		"5min":                  "is no span of time",
		"36501d":                "the longest span is 36500d",
		"36500d1s":              "the longest span is 36500d",
		"9999999h":              "the longest span is 36500d",
		"99999999999999999999d": "the longest span is 36500d",
		"99999999999999999999h": "the longest span is 36500d",
	} {
		if got, err := ParseDuration(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseDuration(%q) = %v, %v; want an error with %q", text, got, err, want)
		}
	}
}

func TestDurationShown(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0s", 15 * time.Minute: "15m", 90 * time.Second: "1m30s", 36 * time.Hour: "1d12h",
		1500 * time.Millisecond: "1.5s", day + time.Millisecond: "1d1ms", 10 * time.Microsecond: "10µs",
	} {
		if got := Duration(d).String(); got != want {
			t.Errorf("%v is shown as %q, want %q", d, got, want)
		}
	}
}

// TestUnitsRoundTrip: what String writes is read back to the same value, by itself, in YAML and in JSON.
func TestUnitsRoundTrip(t *testing.T) {
	t.Parallel()
	type both struct {
		B Bytes    `yaml:"b"`
		D Duration `yaml:"d"`
	}
	rapid.Check(t, func(t *rapid.T) {
		want := both{drawBytes(t, "bytes"), drawDuration(t, "duration")}
		if b, err := ParseBytes(want.B.String()); err != nil || b != want.B {
			t.Fatalf("%v came back as %v, %v", want.B, b, err)
		}
		if d, err := ParseDuration(want.D.String()); err != nil || d != want.D {
			t.Fatalf("%v came back as %v, %v", want.D, d, err)
		}
		for name, codec := range map[string]struct {
			marshal   func(any) ([]byte, error)
			unmarshal func([]byte, any) error
		}{
			"JSON": {json.Marshal, json.Unmarshal},
			"YAML": {yaml.Marshal, func(b []byte, v any) error { return yaml.Unmarshal(b, v) }},
		} {
			text, err := codec.marshal(want)
			if err != nil {
				t.Fatal(err)
			}
			var got both
			if err := codec.unmarshal(text, &got); err != nil || got != want {
				t.Fatalf("%s %s came back as %v, %v; want %v", name, text, got, err, want)
			}
		}
	})
}

func TestUnitsRefuseBareNumbersInJSON(t *testing.T) {
	t.Parallel()
	var b Bytes
	var d Duration
	if err := json.Unmarshal([]byte(`"64"`), &b); err == nil {
		t.Error("a size without a unit was taken")
	}
	if err := json.Unmarshal([]byte(`90`), &d); err == nil {
		t.Error("a number was taken as a span of time")
	}
}

func drawBytes(t *rapid.T, name string) Bytes {
	unit := rapid.SampledFrom(byteUnits).Draw(t, name+" unit").size
	return Bytes(rapid.Uint64Range(0, (1<<63-1)/unit).Draw(t, name) * unit)
}

func drawDuration(t *rapid.T, name string) Duration {
	unit := rapid.SampledFrom([]time.Duration{1, time.Microsecond, time.Millisecond, time.Second, time.Minute, time.Hour, day}).Draw(t, name+" unit")
	return Duration(time.Duration(rapid.Int64Range(0, int64(maxDays*day/unit)).Draw(t, name)) * unit)
}
