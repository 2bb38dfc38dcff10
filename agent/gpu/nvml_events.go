//go:build cgo && linux

package gpu

import (
	"slices"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// events collects the critical errors (XIDs) that the driver reports.
type events struct {
	set   nvml.EventSet
	cards []card
	heard map[int]bool // cards, by index, that report at all
	seen  []xid
}

type xid struct {
	card     int
	instance uint32
	code     uint32
}

// wholeCard stands where an event names no instance, or for all instances.
const wholeCard = 0xFFFFFFFF

// listen subscribes to the errors of all cards that report them. It gives nil where none does.
func (n *NVML) listen() *events {
	if !n.can[eventCreate] || !n.can[eventRegister] || !n.can[eventWait] || !n.can[eventFree] {
		return nil
	}
	set, ret := n.lib.EventSetCreate()
	if ret != nvml.SUCCESS {
		return nil
	}
	e := &events{set: set, cards: n.cards, heard: map[int]bool{}}
	for _, c := range n.cards {
		if c.Device != nil && c.RegisterEvents(nvml.EventTypeXidCriticalError, set) == nvml.SUCCESS {
			e.heard[c.index] = true
		}
	}
	if len(e.heard) == 0 {
		e.close()
		return nil
	}
	return e
}

// pollMax bounds how many events one sample takes in; the driver keeps the rest.
const pollMax = 256

// poll takes in what was reported since the last time. It does not wait.
func (e *events) poll() {
	if e == nil {
		return
	}
	for range pollMax {
		data, ret := e.set.Wait(0)
		if ret != nvml.SUCCESS {
			return // a timeout: nothing more
		}
		if data.EventType != nvml.EventTypeXidCriticalError {
			continue
		}
		i := slices.IndexFunc(e.cards, func(c card) bool { return c.Device == data.Device })
		if i < 0 {
			continue
		}
		x := xid{card: e.cards[i].index, instance: data.GpuInstanceId, code: uint32(data.EventData)}
		if !slices.Contains(e.seen, x) {
			e.seen = append(e.seen, x)
		}
	}
}

// of gives the codes that concern an instance, or the whole card, each once and in the order in which they came: its
// own and those that name no instance.
func (e *events) of(card int, instance uint32) []uint32 {
	if e == nil || !e.heard[card] {
		return nil
	}
	codes := []uint32{}
	for _, x := range e.seen {
		concerns := x.card == card && (instance == wholeCard || x.instance == wholeCard || x.instance == instance)
		if concerns && !slices.Contains(codes, x.code) {
			codes = append(codes, x.code)
		}
	}
	return codes
}

func (e *events) close() {
	if e != nil {
		_ = e.set.Free()
	}
}
