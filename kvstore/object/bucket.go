package object

import (
	"context"
	"errors"
	"io"
	"time"
)

// bucket is what a store asks of the place where its objects lie. Names are slash paths below the store's prefix.
type bucket interface {
	// Put makes an object of bytes, at once and whole, and replaces one of the name. ifAbsent: only where there is none; else
	// errExists.
	Put(ctx context.Context, name string, data []byte, ifAbsent bool) error
	// Get reads n bytes from an offset, to the end where n is -1; from the end where the offset is negative. The reader fails
	// where the object ends before.
	Get(ctx context.Context, name string, at, n int64) (io.ReadCloser, error)
	// Stat returns what is known of an object without its bytes.
	Stat(ctx context.Context, name string) (stat, error)
	// List calls each for every object whose name begins with a prefix that ends with a slash, until it returns an error.
	List(ctx context.Context, prefix string, each func(name string, s stat) error) error
	// Delete removes objects; that they are not there is no error.
	Delete(ctx context.Context, name string) error
	// Touch makes an object as young as one that is put now.
	Touch(ctx context.Context, name string) error
	// String names the place for people, without secrets.
	String() string
}

// stat is what is known of an object.
type stat struct {
	size     int64
	modified time.Time // by the clock of the place
}

var (
	errNoObject = errors.New("no such object")
	errExists   = errors.New("the object is there already")
	// errRefused means that the place answered and will not answer otherwise if it is asked again: credentials, no bucket.
	errRefused = errors.New("refused")
	// errNoConditions means that the server does not know If-None-Match.
	errNoConditions = errors.New("the server knows no conditional writes")
	// errCut means that a connection ended before the answer did.
	errCut = errors.New("the answer was cut off")
)
