package reconcile

import (
	"regexp"
	"strings"
)

// complains finds lines of an engine's output that may say why it ended. The others, of requests and progress, would only
// mislead: what was killed says nothing of it.
var complains = regexp.MustCompile(`(?i)error|exception|fatal|panic|abort|fail|cannot|can't|unable|refused|denied|not found|no such|out of memory|oom\b|invalid|missing`)

// complaint gives the last line that complains, after a colon; empty where none does.
func complaint(lines []string) string {
	for i := len(lines) - 1; i >= 0; i-- {
		if complains.MatchString(lines[i]) {
			return ": " + strings.TrimSpace(lines[i])
		}
	}
	return ""
}
