package peer

import (
	"bufio"
	"net/http"
	"time"

	"github.com/penstock/penstock/kvstore"
	"github.com/penstock/penstock/kvstore/front"
)

// Door serves a store's blocks to other agents. Who may reach it is decided before it.
type Door struct {
	Store  kvstore.Store
	Counts front.Door
	Stall  time.Duration // how long one block may take on the wire, over the time that its size takes at 4 MiB/s
}

// ServeHTTP answers one request for many blocks.
func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.Header.Get("Content-Type") != ContentType {
		d.Counts.Refused("protocol")
		http.Error(w, "blocks are asked for by POST of "+ContentType, http.StatusUnsupportedMediaType)
		return
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(d.Stall))
	keys, err := readKeys(bufio.NewReader(r.Body))
	if err != nil {
		d.Counts.Refused("protocol")
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", ContentType)
	sent := uint32(0)
	err = d.Store.GetMany(r.Context(), keys, func(i int, b *kvstore.Block) error {
		data := b.Bytes()
		_ = control.SetWriteDeadline(time.Now().Add(front.Allowance(d.Stall, int64(len(data)))))
		head := record{uint32(i), b.Sum(), uint64(len(data))}.bytes()
		if _, err := w.Write(head[:]); err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
		sent++
		d.Counts.Out.Add(float64(len(data)))
		return nil
	})
	if err != nil {
		d.Counts.Command("get", front.Error)
		panic(http.ErrAbortHandler) // cut: an answer without its end never looks whole
	}
	d.Counts.Command("get", front.OK)
	end := record{theEnd, sent, 0}.bytes()
	_, _ = w.Write(end[:])
}
