package sim

// queue is first in, first out, but for those that are put in front.
type queue[T any] struct {
	items []T
	head  int
}

func (q *queue[T]) len() int   { return len(q.items) - q.head }
func (q *queue[T]) first() T   { return q.items[q.head] }
func (q *queue[T]) at(i int) T { return q.items[q.head+i] }

func (q *queue[T]) push(t T) {
	if q.head > 64 && q.head > len(q.items)/2 {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, t)
}

func (q *queue[T]) pushFront(t T) {
	if q.head > 0 {
		q.head--
		q.items[q.head] = t
		return
	}
	q.items = append(q.items, t)
	copy(q.items[1:], q.items)
	q.items[0] = t
}

func (q *queue[T]) pop() (t T) {
	var none T
	t, q.items[q.head] = q.items[q.head], none
	q.head++
	return t
}

// endings is a heap of decoding sequences by the step that ends them. A sequence knows its place, counted from 1.
type endings []*sequence

func (h *endings) push(s *sequence) {
	*h = append(*h, s)
	s.place = len(*h)
	h.up(len(*h) - 1)
}

func (h *endings) remove(s *sequence) {
	i, last := s.place-1, len(*h)-1
	h.swap(i, last)
	(*h)[last] = nil
	*h = (*h)[:last]
	s.place = 0
	if i < last {
		h.up(i)
		h.down(i)
	}
}

func (h endings) swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i+1, j+1
}

func (h endings) less(i, j int) bool {
	if h[i].lastStep != h[j].lastStep {
		return h[i].lastStep < h[j].lastStep
	}
	return h[i].index < h[j].index
}

func (h endings) up(i int) {
	for i > 0 && h.less(i, (i-1)/2) {
		h.swap(i, (i-1)/2)
		i = (i - 1) / 2
	}
}

func (h endings) down(i int) {
	for {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(h); c++ {
			if h.less(c, least) {
				least = c
			}
		}
		if least == i {
			return
		}
		h.swap(i, least)
		i = least
	}
}
