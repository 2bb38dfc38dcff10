package folder

import "regexp"

// Ranks' parts of one block have names that differ in the rank alone. They are worth something only together.
//
//	vLLM    MODEL_DIGEST_rRANK/HHH/HH_gGROUP/HASH.bin
//	SGLang  HASH_MODEL_RANK_RANKS.bin, or with _k and _v behind it
var (
	rankFolder = regexp.MustCompile(`_r[0-9]+/`)
	rankSuffix = regexp.MustCompile(`_[0-9]+_[0-9]+(_[kv])?(\.bin)?$`)
)

// groupOf is what the parts of a block have in common.
func groupOf(name string) string {
	return rankSuffix.ReplaceAllString(rankFolder.ReplaceAllString(name, "_r/"), "")
}
