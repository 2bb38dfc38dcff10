package cli

import (
	"os"
	"os/signal"
	"syscall"
)

// onSignals calls first at the first SIGTERM or SIGINT, and second at the next. The returned function ends it.
func onSignals(first func(name string), second func()) (stop func()) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	done := make(chan struct{})
	go func() {
		calls := 0
		for {
			select {
			case s := <-signals:
				if calls++; calls == 1 {
					first(s.String())
				} else {
					second()
				}
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}
