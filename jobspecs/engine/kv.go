package engine

import (
	"slices"
	"strings"

	"github.com/penstock/penstock/jobspecs"
)

// llamaBlock is the number of tokens of a llama.cpp block unless the deployment says otherwise: 512 KiB at 8 KiB a token.
const llamaBlock = 64

// KVBlock is how many tokens one block of a deployment's KV has in Penstock's tiers; 0 = the engine's own blocks, of the
// engine's own size.
func KVBlock(d jobspecs.Deployment) int {
	if d.KV.BlockTokens == 0 && d.Engine.Kind == jobspecs.LlamaCpp {
		return llamaBlock
	}
	return d.KV.BlockTokens
}

// KVIdentity is what of the arguments of a role's engine changes the meaning of its KV bytes: runs with different ones share
// no blocks. What is not known to be without effect counts.
func KVIdentity(d jobspecs.Deployment, role jobspecs.RoleKind) string {
	args := append(slices.Clone(d.Engine.Args), d.Roles[role].Args...)
	if d.Engine.Kind == jobspecs.LlamaCpp {
		return llamacpp{}.kvIdentity(args)
	}
	return strings.Join(args, " ")
}
