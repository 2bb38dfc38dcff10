package jobspecs

import "strings"

// Nearest returns the candidate that word was most likely meant to be; empty = none is close. Case, dashes and
// underscores don't count, so served_name finds servedName.
func Nearest(word string, candidates []string) string {
	w := plain(word)
	best, least := "", (len(w)+2)/3+1
	for _, c := range candidates {
		if d := editDistance(w, plain(c)); d < least {
			best, least = c, d
		}
	}
	return best
}

func plain(s string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s))
}

// editDistance counts insertions, deletions, replacements and swaps of neighbours that turn a into b. Words longer than
// any of ours are as far as they are long.
func editDistance(a, b string) int {
	const longest = 64
	if len(a) > longest || len(b) > longest {
		return max(len(a), len(b))
	}
	var before, last, row [longest + 1]int
	for j := range len(b) + 1 {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			differ := 1
			if a[i-1] == b[j-1] {
				differ = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+differ)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
