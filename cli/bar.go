package cli

import (
	"fmt"
	"strings"
	"time"
)

// bar shows on stderr how far long work has come, where somebody is looking: on a terminal, and not with --json.
type bar struct {
	inv   *invocation
	what  string
	total int64
	unit  string
	began time.Time
	shown time.Time
	on    bool
}

func (inv *invocation) newBar(what string, total int64, unit string) *bar {
	now := inv.now()
	return &bar{inv: inv, what: what, total: total, unit: unit, began: now, on: inv.ErrTTY && !inv.json()}
}

const (
	barWidth = 30
	barEvery = 100 * time.Millisecond
)

// at says that so much is done. It may be called as often as one likes.
func (b *bar) at(done int64) {
	now := b.inv.now()
	if !b.on || now.Sub(b.shown) < barEvery || b.total <= 0 {
		return
	}
	b.shown = now
	full := int(barWidth * done / b.total)
	fmt.Fprintf(b.inv.Err, "\r%s [%s%s] %3d%% %s\x1b[K", b.what, strings.Repeat("#", full), strings.Repeat(".", barWidth-full),
		100*done/b.total, b.pace(done, now))
}

// pace is the rate so far, and the time that is left at it.
func (b *bar) pace(done int64, now time.Time) string {
	spent := now.Sub(b.began)
	if done == 0 || spent < barEvery {
		return ""
	}
	left := time.Duration(float64(spent) / float64(done) * float64(b.total-done))
	rate := fmt.Sprintf("%.0f %s", float64(done)/spent.Seconds(), b.unit)
	if b.unit == "bytes" {
		rate = rateText(done, spent)
	}
	return fmt.Sprintf("%s/s, %s left", rate, ageText(left))
}

// end takes the bar away.
func (b *bar) end() {
	if b.on && !b.shown.IsZero() {
		fmt.Fprint(b.inv.Err, "\r\x1b[K")
	}
}
