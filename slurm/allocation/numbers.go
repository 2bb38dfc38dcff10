package allocation

import (
	"fmt"
	"strconv"
	"strings"
)

// maxNumber is more than any node has cards.
const maxNumber = 1 << 12

// Numbers reads a list of numbers as Slurm writes the cards of a job on a node: 0,2-3.
func Numbers(list string) (numbers []int, err error) {
	for part := range strings.SplitSeq(list, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		from, to, span := strings.Cut(part, "-")
		if !span {
			to = from
		}
		a, err1 := strconv.Atoi(from)
		b, err2 := strconv.Atoi(to)
		if err1 != nil || err2 != nil || a < 0 || a > b || b > maxNumber {
			return nil, fmt.Errorf("%q is no range of numbers", part)
		}
		for ; a <= b; a++ {
			numbers = append(numbers, a)
		}
	}
	return numbers, nil
}
