package nomad

// penstockScenarios are about Penstock on a Nomad.
var penstockScenarios = []scenario{}
