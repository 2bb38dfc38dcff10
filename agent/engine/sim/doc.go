// Package sim is the built-in simulated inference engine, `penstock engine sim`. It stands in for vLLM in demos, tests
// and benchmarks: the same HTTP paths and JSON shapes, the same metric names, the same KV events over ZMQ, the same
// kv_transfer_params for disaggregated serving, the same way of scheduling.
//
// What it does for real: paged KV blocks with prefix caching and LRU eviction, iteration-level scheduling with chunked
// prefill and preemption, sockets, files that are read while "loading", transfers between two processes. What it makes up:
// the text, and the time that a step takes.
//
// Text is a pure function of the token prefix and the model's fingerprint (Generate). The state of that function is what
// the simulated KV blocks hold, so a block that was lost, swapped or computed by other weights shows as other text. The
// tokenizer has tokens that span words and tokens that hold half a UTF-8 character, and generated text is usually not
// split into tokens as the tokenizer would split it: a stream that is continued from its text and not from its token ids
// goes on differently.
//
// Time follows the polynomial that NVIDIA Dynamo's mocker used in its tree of October 2025
// (lib/llm/src/mocker/protocols.rs and scheduler.rs), see stepTime.
//
// The package knows nothing of deployments, agents or controllers. Its callers are the cli, which fills Options from flags
// and environment, and tests. It reads no environment, never exits the process and starts nothing before Run.
package sim
