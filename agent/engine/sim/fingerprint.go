package sim

import (
	"fmt"

	"github.com/zeebo/xxh3"
)

// Fingerprint stands for a model's weights: other weights give another fingerprint, and another text.
type Fingerprint uint64

// FingerprintOf is the fingerprint of a model that has no file: of its name alone.
func FingerprintOf(model string) Fingerprint { return Fingerprint(xxh3.HashString(model)) }

// WithAdapter is the fingerprint of the model with a LoRA adapter; no name means none.
func (f Fingerprint) WithAdapter(name string) Fingerprint {
	if name == "" {
		return f
	}
	return Fingerprint(mix(uint64(f), xxh3.HashString(name)))
}

// String is the fingerprint in hexadecimal.
func (f Fingerprint) String() string { return fmt.Sprintf("%016x", uint64(f)) }
