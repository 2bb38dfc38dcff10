package upstream

// KVSave asks a replica's agent to store the prompt's KV blocks before its answer ends.
var KVSave = Header{"Penstock-Kv-Save", "1"}

// KVFrom tells a replica's agent which other agent has the prompt's KV blocks.
func KVFrom(t Target) Header { return Header{"Penstock-Kv-From", t.Launch + " " + t.Address} }
