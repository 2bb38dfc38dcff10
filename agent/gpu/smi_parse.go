package gpu

import (
	"bytes"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// cardFields are asked of each card, in this order. The name comes last because it may hold a comma.
var cardFields = [...]string{
	"uuid", "index", "memory.total", "memory.used", "utilization.gpu", "temperature.gpu", "power.draw",
	"enforced.power.limit", "clocks.sm", "clocks.mem", "ecc.errors.corrected.volatile.total",
	"ecc.errors.uncorrected.volatile.total", "mig.mode.current", "name",
}

// appFields are asked of each computing process.
var appFields = [...]string{"gpu_uuid", "pid", "used_gpu_memory"}

const mebi = 1 << 20

// parseCards reads one card a line, and tells which have MIG instances, by UUID.
func parseCards(out []byte) (cards []GPU, mig map[string]bool, err error) {
	mig = map[string]bool{}
	err = eachLine(out, len(cardFields), func(f []string) error {
		index, err := strconv.Atoi(f[1])
		if err != nil || f[0] == "" {
			return fmt.Errorf("no UUID and index: %q, %q", f[0], f[1])
		}
		if f[12] == "Enabled" {
			mig[f[0]] = true
		}
		cards = append(cards, GPU{
			UUID: f[0], Index: index, Name: f[13],
			MemoryTotal:    whole(f[2], mebi),
			MemoryUsed:     whole(f[3], mebi),
			Utilization:    share(number(f[4])),
			TemperatureC:   number(f[5]),
			PowerW:         number(f[6]),
			PowerLimitW:    number(f[7]),
			SMClockMHz:     clock(f[8]),
			MemClockMHz:    clock(f[9]),
			ECCCorrected:   whole(f[10], 1),
			ECCUncorrected: whole(f[11], 1),
		})
		return nil
	})
	return cards, mig, err
}

// parseApps reads one computing process a line, and gives those of each card by its UUID.
func parseApps(out []byte) (map[string][]Process, error) {
	apps := map[string][]Process{}
	err := eachLine(out, len(appFields), func(f []string) error {
		pid, err := strconv.Atoi(f[1])
		if err != nil || pid <= 0 {
			return fmt.Errorf("process ID %q", f[1])
		}
		apps[f[0]] = merge(apps[f[0]], Process{PID: pid, Memory: whole(f[2], mebi)})
		return nil
	})
	return apps, err
}

// eachLine splits lines at ", " into the given number of fields.
func eachLine(out []byte, fields int, use func(fields []string) error) error {
	for line := range bytes.Lines(out) {
		text := strings.TrimSpace(string(line))
		if text == "" {
			continue
		}
		f := strings.SplitN(text, ", ", fields)
		if len(f) != fields {
			return fmt.Errorf("line %q has %d fields, want %d", firstLine(line), len(f), fields)
		}
		for i := range f {
			f[i] = strings.ToValidUTF8(strings.TrimSpace(f[i]), "?")
		}
		if err := use(f); err != nil {
			return fmt.Errorf("line %q: %w", firstLine(line), err)
		}
	}
	return nil
}

// number reads a value. Everything that is not one, such as [N/A], [Not Supported] and ERR!, means that the card does
// not tell.
func number(s string) *float64 {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// whole reads a count of units.
func whole(s string, unit uint64) *uint64 {
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil || v > math.MaxUint64/unit {
		return nil
	}
	v *= unit
	return &v
}

func clock(s string) *uint32 {
	v, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return nil
	}
	mhz := uint32(v)
	return &mhz
}

// share turns per cent into a part of one.
func share(percent *float64) *float64 {
	if percent == nil || *percent < 0 {
		return nil
	}
	v := min(1, *percent/100)
	return &v
}

// Lines of nvidia-smi -L.
var (
	listedCard     = regexp.MustCompile(`^GPU \d+: .* \(UUID: (GPU-[^)]+)\)$`)
	listedInstance = regexp.MustCompile(`^\s+(MIG \S+)\s+Device\s+\d+: \(UUID: (MIG-[^)]+)\)$`)
)

// parseList reads which MIG instances there are, in order.
func parseList(out []byte) (instances []GPU) {
	parent := ""
	for line := range bytes.Lines(out) {
		line := strings.ToValidUTF8(strings.TrimRight(string(line), "\r\n "), "?")
		if m := listedCard.FindStringSubmatch(line); m != nil {
			parent = m[1]
		} else if m := listedInstance.FindStringSubmatch(line); m != nil && parent != "" {
			instances = append(instances, GPU{UUID: m[2], Name: m[1], MIGParent: parent})
		}
	}
	return instances
}

// withInstances puts each instance behind its card. One of a card that is not there is left out.
func withInstances(cards, instances []GPU) []GPU {
	var all []GPU
	for _, card := range cards {
		all = append(all, card)
		for _, g := range instances {
			if g.MIGParent == card.UUID {
				g.Index, g.Name = card.Index, card.Name+" "+g.Name
				all = append(all, g)
			}
		}
	}
	return all
}
