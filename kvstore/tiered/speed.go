package tiered

import (
	"sync"
	"time"
)

// Speed is what a tier's reads have been like lately. The zero Speed is unknown.
type Speed struct {
	Latency   time.Duration // before the first byte
	Bandwidth float64       // bytes per second after it, of one read
}

// Known says whether anything was measured.
func (s Speed) Known() bool { return s.Bandwidth > 0 }

// Time is how long a read of so many bytes takes.
func (s Speed) Time(bytes int64) time.Duration {
	return s.Latency + time.Duration(float64(bytes)/s.Bandwidth*float64(time.Second))
}

// meter fits latency and bandwidth to reads, by least squares over their sizes with weights that fade: t = latency +
// bytes/bandwidth.
type meter struct {
	mu              sync.Mutex
	n, x, y, xx, xy float64
}

const fade = 0.97 // of what was known, at each read: the last thirty or so count

func (m *meter) observe(bytes int64, took time.Duration) {
	if bytes <= 0 || took <= 0 {
		return
	}
	x, y := float64(bytes), took.Seconds()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, sum := range []*float64{&m.n, &m.x, &m.y, &m.xx, &m.xy} {
		*sum *= fade
	}
	m.n++
	m.x += x
	m.y += y
	m.xx += x * x
	m.xy += x * y
}

func (m *meter) speed() Speed {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.n == 0 {
		return Speed{}
	}
	perByte, latency := m.y/m.x, 0.0
	if spread := m.n*m.xx - m.x*m.x; spread > 1e-3*m.x*m.x { // sizes differ enough to tell the two apart
		slope := (m.n*m.xy - m.x*m.y) / spread
		if at0 := (m.y - slope*m.x) / m.n; slope > 0 && at0 >= 0 {
			perByte, latency = slope, at0
		}
	}
	return Speed{Latency: time.Duration(latency * float64(time.Second)), Bandwidth: 1 / perByte}
}
