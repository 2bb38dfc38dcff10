package s3

import (
	"testing"
	"time"

	"github.com/penstock/penstock/kvstore"
)

// TestUploadsOfOneUser: what one user begins and never ends is bounded, and takes nothing from another.
func TestUploadsOfOneUser(t *testing.T) {
	t.Parallel()
	u := newUploads(1000, 1500)
	now := time.Now()
	key := func(user byte) kvstore.Key { return kvstore.Key{Space: kvstore.Space{user}} }
	begin := func(user byte) string {
		id, bad := u.begin(key(user), now)
		if bad != nil {
			t.Fatal(bad)
		}
		return id
	}
	add := func(id string, user byte, number, n int) *apiError {
		b := kvstore.NewBlock(make([]byte, n), nil).Seal()
		defer b.Release()
		return u.add(id, key(user), number, b, now)
	}
	a, b, other := begin(1), begin(1), begin(2)
	for _, c := range []struct {
		id        string
		user      byte
		number, n int
		want      *apiError
	}{
		{a, 1, 1, 900, nil},
		{a, 1, 2, 200, errTooLarge},
		{a, 1, 1, 1000, nil},
		{b, 1, 1, 600, errFull},
		{b, 1, 1, 500, nil},
		{other, 2, 1, 1000, nil},
		{other, 1, 1, 1, errNoUpload},
		{a, 2, 1, 1, errNoUpload},
		{a, 1, 1, 100, nil},
		{b, 1, 2, 500, nil},
	} {
		if bad := add(c.id, c.user, c.number, c.n); bad != c.want {
			t.Errorf("part %d of %d bytes: %v, want %v", c.number, c.n, bad, c.want)
		}
	}
	u.take(a, key(1)).release()
	for range userUploads - 1 {
		begin(1)
	}
	if _, bad := u.begin(key(1), now); bad != errFull {
		t.Errorf("one upload too many: %v", bad)
	}
	begin(2)
	if _, bad := u.begin(key(1), now.Add(uploadExpiry+1)); bad != nil {
		t.Errorf("uploads that nobody goes on with are in the way: %v", bad)
	}
	u.close()
	if len(u.all) > 0 || len(u.users) > 0 {
		t.Errorf("%d uploads of %d users are left", len(u.all), len(u.users))
	}
}
