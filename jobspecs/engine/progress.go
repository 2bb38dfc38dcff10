package engine

import (
	"regexp"
	"strconv"

	"github.com/penstock/penstock/jobspecs"
)

// Progress reads from one line of an engine's output which share of its weights is loaded, 0 to 1. ok is false for a line
// that says nothing of it. The share may fall back: engines count several passes one after the other.
func Progress(kind jobspecs.EngineKind, line string) (fraction float64, ok bool) {
	k, known := kinds[kind]
	if !known || len(line) > maxLine {
		return 0, false
	}
	return k.progress(line)
}

const maxLine = 4096

var (
	// Loading safetensors checkpoint shards:  25% Completed | 1/4 [00:00<00:02,  1.35it/s]
	shardLine = regexp.MustCompile(`\b[Ll]oading [^:]*shards: +\d{1,3}% Completed \| (\d{1,9})/(\d{1,9})\b`)
	// Loading weights:  40%|████      | 476/1190 [00:24<00:37, 19.26it/s]
	barLine = regexp.MustCompile(`\bLoading [^:]*weights[^:]*: +\d{1,3}%\|[^|]*\| *(\d{1,9})/(\d{1,9})\b`)
	// loading weights 123/456 bytes
	simLine = regexp.MustCompile(`\bloading weights (\d{1,18})/(\d{1,18}) bytes\b`)
)

func shards(line string) (float64, bool) { return counted(shardLine, line) }

func bar(line string) (float64, bool) { return counted(barLine, line) }

// counted finds "done/total" by a pattern with two groups of digits.
func counted(pattern *regexp.Regexp, line string) (float64, bool) {
	m := pattern.FindStringSubmatch(line)
	if m == nil {
		return 0, false
	}
	done, err := strconv.ParseUint(m[1], 10, 63)
	total, err2 := strconv.ParseUint(m[2], 10, 63)
	if err != nil || err2 != nil || total == 0 || done > total {
		return 0, false
	}
	return float64(done) / float64(total), true
}
