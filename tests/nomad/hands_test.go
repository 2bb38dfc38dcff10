package nomad

import (
	"context"

	"github.com/penstock/penstock/nomad/nomadtest"
	"github.com/penstock/penstock/tests/nomad/testbed"
)

// hands are what a test may do to the agents of a Nomad; nil = nothing.
type hands interface {
	LoseClient(name string) error
	ReturnClient(name string) error
	RestartServer(ctx context.Context) error
}

type fakeHands struct{ s *nomadtest.Server }

func (h fakeHands) LoseClient(name string) error {
	h.s.LoseClient(name)
	return nil
}

func (h fakeHands) ReturnClient(name string) error {
	h.s.ReturnClient(name)
	return nil
}

func (h fakeHands) RestartServer(context.Context) error { return h.s.RestartServer(0) }

type bedHands struct{ b *testbed.Bed }

func (h bedHands) LoseClient(name string) error            { return h.b.KillClient(name) }
func (h bedHands) ReturnClient(name string) error          { return h.b.StartClient(name) }
func (h bedHands) RestartServer(ctx context.Context) error { return h.b.RestartServer(ctx) }
