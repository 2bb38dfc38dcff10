package rawjson

// Iter walks the members of one object or the elements of one array without allocating. After each Next the caller takes
// the value by Skip, or walks into it with another Iter and hands that one's end to Resume.
//
//	for it := Members(b, at); it.Next(); it.Skip() { ... }
//
// An Iter that meets bytes which are not JSON stops, and End is -1 then.
type Iter struct {
	b      []byte
	i      int  // where the next member is looked for
	close  byte // } or ]
	first  bool
	taken  bool
	end    int // after the closing bracket; 0 = not there yet, -1 = malformed
	key    int
	keyEnd int

	Value int // first byte of the current value
}

// Members walks the object at b[at].
func Members(b []byte, at int) Iter { return open(b, at, '{', '}') }

// Elements walks the array at b[at].
func Elements(b []byte, at int) Iter { return open(b, at, '[', ']') }

func open(b []byte, at int, bracket, closing byte) Iter {
	it := Iter{b: b, close: closing, first: true, taken: true, key: -1}
	if at < 0 || at >= len(b) || b[at] != bracket {
		it.end = -1
		return it
	}
	it.i = at + 1
	return it
}

// Next goes to the next member or element. A value that was not taken is skipped.
func (it *Iter) Next() bool {
	if !it.taken {
		it.Skip()
	}
	if it.end != 0 {
		return false
	}
	i := space(it.b, it.i)
	if i < len(it.b) && it.b[i] == it.close {
		it.end = i + 1
		return false
	}
	if !it.first {
		if i >= len(it.b) || it.b[i] != ',' {
			return it.fail()
		}
		i = space(it.b, i+1)
	}
	it.first = false
	if it.close == '}' {
		if i = it.readKey(i); i < 0 {
			return it.fail()
		}
	}
	if i >= len(it.b) {
		return it.fail()
	}
	it.Value, it.taken = i, false
	return true
}

func (it *Iter) readKey(i int) int {
	if i >= len(it.b) || it.b[i] != '"' {
		return -1
	}
	end, err := str(it.b, i)
	if err != nil {
		return -1
	}
	it.key, it.keyEnd = i, end
	if i = space(it.b, end); i >= len(it.b) || it.b[i] != ':' {
		return -1
	}
	return space(it.b, i+1)
}

func (it *Iter) fail() bool {
	it.end = -1
	return false
}

// Key is the member's name as it stands between its quotes, escapes and all.
func (it *Iter) Key() []byte { return it.b[it.key+1 : it.keyEnd-1] }

// KeyAt is the offset of the opening quote of the member's name; of an element, of the value itself.
func (it *Iter) KeyAt() int {
	if it.key < 0 {
		return it.Value
	}
	return it.key
}

// Skip takes the current value and returns its end, -1 when it is malformed.
func (it *Iter) Skip() int {
	end := Skip(it.b, it.Value)
	it.Resume(end)
	return end
}

// ValueEnd is where the value that was taken last ends.
func (it *Iter) ValueEnd() int { return it.i }

// Resume tells where the current value ends; -1 = it is malformed.
func (it *Iter) Resume(end int) {
	it.taken = true
	if end < 0 {
		it.end = -1
		return
	}
	it.i = end
}

// End is the offset after the closing bracket once Next has returned false; -1 when what was walked is not JSON.
func (it *Iter) End() int { return it.end }

// IsNull reports whether the value at b[at] is null.
func IsNull(b []byte, at int) bool {
	return at >= 0 && at+4 <= len(b) && string(b[at:at+4]) == "null"
}
