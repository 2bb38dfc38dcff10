package sim

import (
	"encoding/hex"
	"fmt"
	"testing"
)

// The vectors are those published for vLLM's sha256_cbor: blocks of the tokens 1..16 and 17..32.
func TestBlockHashVectors(t *testing.T) {
	t.Parallel()
	first, second := make([]int32, 16), make([]int32, 16)
	for i := range first {
		first[i], second[i] = int32(1+i), int32(17+i)
	}
	for _, c := range []struct {
		seed, root, block0, block1, salted0, salted1, lora0, lora1, both0 string
		short0                                                            uint64
	}{{
		seed: "0", root: "4e1195df020de59e0d65a33a4279f1183e7ae4e5d980e309f8b55adff2e61c3e",
		block0:  "202da172482d928bbc42ab25b0151e2b895f13f41002e27b2ceabcfae6d332ea",
		block1:  "4a0a393805c6d2f0ed831000d41bb65980336c4c04895d5e26470bbec927f5bf",
		salted0: "49b760d6d243926bf3dfb4d180a3a3d4b6014d7f50eeaab097c026e53c21ba63",
		salted1: "42304b0de7a553691af02264aa5a4a23c72f10deed2cb81d40b8e222302282cc",
		lora0:   "2c20b77847c373bb6dd3d0c7a65d941aefd9a9e9983b0296551d26276c6843ff",
		lora1:   "a87d358d611f7d5966b6c2d3aa22dcaf883304a7680cac895553c4520e521ee3",
		both0:   "eb95c24f90b17f74fdd59da9f296b63475ae9dfd70e782b84340af7b5a4d186b",
		short0:  3236607068019569386,
	}, {
		seed: defaultHashSeed, root: "9bd96a485ad84efdafb72ee48a1d7a69bcead0f8f0433173941b276b9581eef0",
		block0:  "cd7c51bc5a8fc8643f383a2b9e01522fba7473c669e9270c7b0bf7bf7fd01682",
		block1:  "2533ea50426b36e9e4d68296cac6bce8cf602e46957d0fe40b368b33d87bf3bf",
		salted0: "84ab0ef3dc094fc39519521dd81c13715e990c1d39795a4e040cfbeb178d35b6",
		salted1: "25f95cbcb5c70d4d7ec0e4c15e98915c0cf3fec6e34f3c799b6d4f95dcc4a180",
		lora0:   "a84a78b560047e0a674125286e52901b2aaeee809febe9a7c605d046f084bc81",
		lora1:   "a7cbec560c8fca63f8b4dc0e4321eb14ab4ec4e6b51e9fd13343531b91ccbcb2",
		both0:   "b0b4ea48a97deb0f42ef6ab013eb459086e68f13b0bc8a7bc071f11559c1fa10",
		short0:  8866452693264111234,
	}} {
		var h blockHasher
		root := rootHash(c.seed)
		block0 := h.hash(root, first, nil)
		salted0, lora0 := h.hash(root, first, []string{"tenant-a"}), h.hash(root, first, []string{"adapter-a"})
		for name, pair := range map[string][2]string{
			"root":    {str(root), c.root},
			"block 0": {str(block0), c.block0}, "block 1": {str(h.hash(block0, second, nil)), c.block1},
			"salted 0": {str(salted0), c.salted0}, "salted 1": {str(h.hash(salted0, second, nil)), c.salted1},
			"LoRA 0": {str(lora0), c.lora0}, "LoRA 1": {str(h.hash(lora0, second, []string{"adapter-a"})), c.lora1},
			"LoRA and salt": {str(h.hash(root, first, []string{"adapter-a", "tenant-a"})), c.both0},
			"short 0":       {fmt.Sprint(block0.short()), fmt.Sprint(c.short0)},
		} {
			if pair[0] != pair[1] {
				t.Errorf("seed %q, %s: %s, want %s", c.seed, name, pair[0], pair[1])
			}
		}
	}
}

func str(h blockHash) string { return hex.EncodeToString(h[:]) }

func TestCBORHeads(t *testing.T) {
	t.Parallel()
	for n, want := range map[uint64]string{23: "17", 24: "1818", 255: "18ff", 256: "190100", 65536: "1a00010000", 1 << 32: "1b0000000100000000"} {
		if got := hex.EncodeToString(cborHead(nil, 0, n)); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
