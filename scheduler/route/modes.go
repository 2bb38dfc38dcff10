package route

// Dynamo's published defaults: what a cached block is worth by its tier, of a block that need not be computed.
const (
	dynamoDevice = 1.0
	dynamoHost   = 0.75
	dynamoDisk   = 0.25
	dynamoShared = 0.5
	dynamoBlock  = 16 // tokens, where the request does not say
)

// priceOther fills in what the modes count that only serve to be compared with.
func (a *ask) priceOther(candidates []Candidate, costs []float64) (limit float64) {
	for i := range candidates {
		c := &candidates[i]
		switch a.Mode {
		case LeastLoaded:
			_, open := a.load(c, a.tells(c))
			costs[i] = float64(open)
		case LeastTokens:
			costs[i] = float64(max(0, c.OpenTokens))
		case DynamoCost:
			costs[i] = a.dynamo(c)
		default:
			costs[i] = 0
		}
	}
	limit = costs[0]
	for _, cost := range costs {
		limit = min(limit, cost)
	}
	return limit
}

// dynamo is prefill_load_scale × max(0, raw prefill blocks − credit) + decode blocks, with the published defaults: scale 1, no
// decay of the credit, no weight of active requests, temperature 0. Raw prefill is what is active on the worker and the whole
// prompt; decode blocks are what is active there and the request's own.
func (a *ask) dynamo(c *Candidate) float64 {
	size := float64(a.BlockTokens)
	if size <= 0 {
		size = dynamoBlock
	}
	from := fetched(c, max(0, min(c.Cached[Object], a.prompt-1)))
	credit := dynamoDevice*from[GPU] + dynamoHost*from[Host] + dynamoDisk*from[Disk] + dynamoShared*from[Object]
	prefill := max(0, float64(max(0, c.InflightTokens)+a.prompt)-credit)
	return prefill/size + float64(max(0, c.OpenTokens)+a.prompt)/size
}
