package jobspecs

import (
	"reflect"
	"regexp"
)

// rule is what one field must satisfy beyond its Go type, and what the schema tells an editor about it. Checks and schema
// read the same table, so they can't disagree.
type rule struct {
	doc      string
	required bool
	min, max int64  // of numbers, sizes (bytes) and spans (nanoseconds); max 0 = none
	form     *form  // of text
	keys     *form  // of a map's keys
	byValue  string // the default, as the schema shows it
	literal  bool   // unquoted numbers and booleans are taken as they are written
	free     bool   // may be empty, and may hold line breaks and tabs
}

// form is what a text must look like.
type form struct {
	pattern string // valid in Go and in JSON Schema
	words   string // completes "X is no ..."
	hint    string
	re      *regexp.Regexp
}

func newForm(pattern, words, hint string) *form {
	return &form{pattern: pattern, words: words, hint: hint, re: regexp.MustCompile(pattern)}
}

var (
	version1       = newForm(`^penstock/v1$`, "known version of the file", "this release reads "+APIVersion)
	dnsLabel       = newForm(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`, "DNS label", "use at most 40 lower case letters, digits and dashes, and no dash at the ends")
	hubName        = newForm(`^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$`, "name of a model hub", "write it as OWNER/NAME; local weights go into model.path")
	absolute       = newForm(`^/([^/].*)?$`, "absolute path", "start it with / and write it out: ~ and variables stay as they are")
	servedName     = newForm(`^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}$`, "name that clients can ask for", "use letters, digits and ._:/@+- only")
	versionName    = newForm(`^[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}$`, "version", "write it as the engine prints it, such as 0.11.0")
	envName        = newForm(`^[A-Za-z_][A-Za-z0-9_]*$`, "name of an environment variable", "use letters, digits and _ only")
	imageName      = newForm(`^[^\s-]\S*$`, "image", "write a path or a reference without blanks")
	mountPair      = newForm(`^/[^:,\s]*:/[^:,\s]*(:r[ow])?$`, "mount", "write SRC:DST or SRC:DST:ro with absolute paths, no blanks and no commas")
	objectURL      = newForm(`^(s3://[a-z0-9][a-z0-9.-]+(/[^\s?#]*)?|file:///[^\s?#]*)$`, "object store", "write s3://BUCKET/PREFIX or file:///FOLDER; credentials go into kv.object.credentialsFile")
	hostPort       = newForm(`^(https?://)?([A-Za-z0-9._-]+|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?$`, "endpoint", "write HOST or HOST:PORT")
	plainName      = newForm(`^[A-Za-z0-9][A-Za-z0-9._,@:+-]*$`, "name", "use letters, digits and ._,@:+- only")
	constraints    = newForm(`^[A-Za-z0-9\[(][A-Za-z0-9._,*&|()\[\]-]*$`, "constraint", "write it as sbatch --constraint takes it")
	moment         = newForm(`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(Z|[+-][0-9]{2}:[0-9]{2})$`, "time", "write it as 2026-12-24T18:00:00Z or 2026-12-24T18:00:00+01:00")
	gpuOption      = newForm(`^(gres|gpus-per-node|none)$`, "way to ask Slurm for cards", "use gres, gpus-per-node or none")
	nomadAttribute = newForm(`^\$\{(attr|node|meta|device)\.[A-Za-z0-9._/-]+\}$`, "attribute of Nomad's", "write it as ${attr.cpu.arch} or ${meta.rack}")
	nomadOperator  = newForm(`^(=|!=|>|>=|<|<=|regexp|set_contains|set_contains_any|version|semver|is_set|is_not_set)$`, "operator of Nomad's constraints", "use =, !=, >, >=, <, <=, regexp, set_contains, set_contains_any, version, semver, is_set or is_not_set")
	nomadDriver    = newForm(`^(raw_exec|exec|docker|podman)$`, "task driver that Penstock can use", "use raw_exec, exec, docker or podman")
	sbatchOption   = newForm(`^-.+`, "option of sbatch", "write it as sbatch takes it, such as --exclusive")
)

// enums lists the values of types that have few.
var enums = map[reflect.Type][]string{
	reflect.TypeFor[EngineKind]():       {string(VLLM), string(SGLang), string(TRTLLM), string(LlamaCpp), string(Sim)},
	reflect.TypeFor[ContainerRuntime](): {string(NoContainer), string(Apptainer), string(Enroot), string(Pyxis), string(Podman)},
	reflect.TypeFor[ClusterKind]():      {string(LocalCluster), string(SlurmCluster), string(NomadCluster)},
	reflect.TypeFor[KVConnector](): {
		string(AutoConnector), string(LMCacheConnector), string(NativeConnector), string(FilesConnector), string(NoConnector),
	},
	reflect.TypeFor[RoleKind](): {string(Prefill), string(Decode), string(Mixed)},
}

const most = 100_000 // of replicas, nodes, cards: far above any cluster, far below an overflow of their product

// rules has one entry for each key of the file; a test holds it complete.
var rules = map[string]rule{
	"apiVersion": {doc: "Version of the deployment file.", required: true, form: version1},
	"name":       {doc: "Name of the deployment, unique in this installation: a DNS label of at most 40 characters.", required: true, form: dnsLabel},
	"cluster":    {doc: "Where replicas run.", byValue: string(LocalCluster)},
	"roles":      {doc: "Roles of the replicas: mixed, or prefill and decode together.", required: true},

	"model":                 {doc: "Weights, and the names under which clients ask for them.", required: true},
	"model.id":              {doc: "Name on the model hub, such as Qwen/Qwen3-8B.", form: hubName},
	"model.path":            {doc: "File or folder with local weights; wins over id, and the engine never asks the network then.", form: absolute},
	"model.servedName":      {doc: "Name in /v1/models. Default: id, else the last part of path.", form: servedName},
	"model.adapters":        {doc: "LoRA adapters, each shown in /v1/models as a model of its own."},
	"model.adapters[]":      {doc: "A LoRA adapter on top of the model."},
	"model.adapters[].name": {doc: "Name in /v1/models.", required: true, form: servedName},
	"model.adapters[].path": {doc: "Folder with the adapter's weights.", required: true, form: absolute},

	"engine":                    {doc: "Program that serves the model, and how it is started.", required: true},
	"engine.kind":               {doc: "Inference engine; sim is built in and needs no GPU.", required: true},
	"engine.version":            {doc: "The engine's version, for people and for command lines that differ by version.", form: versionName, literal: true},
	"engine.command":            {doc: "Replaces the engine's own program, such as [/opt/llama/llama-server]."},
	"engine.command[]":          {doc: "A word of the command.", literal: true},
	"engine.args":               {doc: "Arguments after those that Penstock gives; of two equal options the engine takes the last."},
	"engine.args[]":             {doc: "One argument.", literal: true, free: true},
	"engine.env":                {doc: "Environment of the engine. No secrets: read them from a file in setup.", keys: envName},
	"engine.env.*":              {doc: "Value of the variable.", literal: true, free: true},
	"engine.setup":              {doc: "Shell lines before the engine: module load, source a venv."},
	"engine.setup[]":            {doc: "One line of bash, or several.", free: true},
	"engine.container":          {doc: "Runs the engine in an image."},
	"engine.container.runtime":  {doc: "What runs the image. pyxis works under Slurm only.", byValue: string(NoContainer)},
	"engine.container.image":    {doc: "Path of a .sif or .sqsh file, or a reference that the runtime can resolve.", form: imageName},
	"engine.container.mounts":   {doc: "Further folders to mount, as SRC:DST[:ro]. Model, socket and run folders are mounted without being named."},
	"engine.container.mounts[]": {doc: "SRC:DST or SRC:DST:ro.", form: mountPair},

	"roles.*":                          {doc: "Replicas of one role."},
	"roles.*.replicas":                 {doc: "How many replicas; 0 is allowed.", max: most, byValue: "1"},
	"roles.*.min":                      {doc: "Least replicas that scaling may reach.", max: most, byValue: "0"},
	"roles.*.max":                      {doc: "Most replicas that scaling may reach; 0 = no bound.", max: most, byValue: "0"},
	"roles.*.nodes":                    {doc: "Nodes of one replica.", min: 1, max: most, byValue: "1"},
	"roles.*.gpus":                     {doc: "GPUs on each node of a replica: a number, or count, type and memory."},
	"roles.*.gpus.count":               {doc: "GPUs per node.", max: most},
	"roles.*.gpus.type":                {doc: "Part of the card's name or of the cluster's type, in any case, such as h100.", form: plainName},
	"roles.*.gpus.memory":              {doc: "Least memory of each card."},
	"roles.*.parallel":                 {doc: "How the engine is spread: tensor * pipeline * data = nodes * gpus. What is left out is filled in."},
	"roles.*.parallel.tensor":          {doc: "Tensor parallel size. Default: what is left inside a node.", min: 1, max: most},
	"roles.*.parallel.pipeline":        {doc: "Pipeline parallel size. Default: what is left.", min: 1, max: most},
	"roles.*.parallel.data":            {doc: "Data parallel size.", min: 1, max: most, byValue: "1"},
	"roles.*.cpus":                     {doc: "CPU cores per node; 0 = the cluster's default.", max: most, byValue: "0"},
	"roles.*.memory":                   {doc: "Host memory per node. Default: the cluster's."},
	"roles.*.args":                     {doc: "Arguments of this role, after engine.args."},
	"roles.*.args[]":                   {doc: "One argument.", literal: true, free: true},
	"roles.*.rollout":                  {doc: "Limits of a rolling replacement when the revision changes."},
	"roles.*.rollout.surge":            {doc: "Replicas above the wanted count.", max: most, byValue: "1"},
	"roles.*.rollout.unavailable":      {doc: "Ready replicas below the wanted count.", max: most, byValue: "0"},
	"roles.*.rollout.progressDeadline": {doc: "A new revision that makes no progress for so long is rolled back.", min: 1, byValue: "15m"},

	"kv":             {doc: "How KV cache is cut into blocks, and where it overflows to."},
	"kv.blockTokens": {doc: "Tokens of one block; 0 = the engine's default.", max: 65536, byValue: "0"},
	"kv.connector": {doc: "How the engine reaches the tiers: auto; lmcache (must be installed with the engine); native, its own offloading; " +
		"files, which it reads and writes itself and which nobody verifies in time; none.", byValue: "auto"},
	"kv.host":                   {doc: "Host memory for KV blocks, per node."},
	"kv.disk":                   {doc: "Node-local folder for KV blocks."},
	"kv.disk.path":              {doc: "The folder.", form: absolute},
	"kv.disk.size":              {doc: "Most bytes in it."},
	"kv.object":                 {doc: "Object store for KV blocks."},
	"kv.object.url":             {doc: "Store: s3://BUCKET/PREFIX or file:///FOLDER.", required: true, form: objectURL},
	"kv.object.endpoint":        {doc: "HOST:PORT of an S3-compatible server. Default: AWS.", form: hostPort},
	"kv.object.credentialsFile": {doc: "File (0600) with the credentials.", form: absolute},
	"kv.object.caFile":          {doc: "PEM file with the CA of the server, where it is not one that the system knows.", form: absolute},
	"kv.object.size":            {doc: "Most bytes in it. Default: no bound."},
	"kv.keyFile":                {doc: "File (0600) with the keys that encrypt blocks on disk and in the object store. Default: they lie in the clear.", form: absolute},

	"slo":      {doc: "What clients should see."},
	"slo.ttft": {doc: "Time to first token."},
	"slo.itl":  {doc: "Time between tokens."},

	"serving":                          {doc: "How replicas start, stop and drain."},
	"serving.loadingStall":             {doc: "Loading that makes no progress for so long has failed.", min: 1, byValue: "15m"},
	"serving.drainTimeout":             {doc: "Most time for open requests when a replica is drained.", min: 1, byValue: "1m"},
	"serving.orphanAfter":              {doc: "An agent that hears of neither controller nor request for so long ends its job.", min: 1, byValue: "1h"},
	"serving.restarts":                 {doc: "Engine restarts inside a run before the run has failed.", max: most, byValue: "3"},
	"serving.maxContext":               {doc: "Longest prompt and answer together, in tokens; 0 = the engine's default.", max: 1 << 30, byValue: "0"},
	"serving.allowForeignGPUProcesses": {doc: "Start although other processes hold memory on the cards.", byValue: "false"},

	"serving.tenant": {doc: "The only tenant (of API keys) that is served; shared: all of them, out of one cache, which tells by its speed what others " +
		"have asked. Needed where an engine does not part its cache by tenants. Default: all, each with a cache of its own.", form: plainName},

	"lifetime":           {doc: "When the deployment is stopped by itself: whichever comes first. Applying the file again starts it anew."},
	"lifetime.keepAlive": {doc: "So long after it was last applied or started."},
	"lifetime.until":     {doc: "At this time, such as 2026-12-24T18:00:00Z.", form: moment},
	"lifetime.gpuHours":  {doc: "Once its jobs have held GPUs for so many hours, summed over the cards, since it was last applied or started; 0 = no cap.", max: 1_000_000_000, byValue: "0"},
	"lifetime.idle":      {doc: "After so long without a request."},

	"local":              {doc: "For cluster: local."},
	"local.walltime":     {doc: "Time limit of each job, as a cluster has one, for trying handover out. Default: none."},
	"local.nodes":        {doc: "Logical nodes, when this machine should look like several. Default: one, named after the host. The deployment runs on these nodes alone. Deployments that are not stopped share nodes of the same name, and have to say the same number of cards; those that declare none run on any node."},
	"local.nodes[]":      {doc: "A logical node."},
	"local.nodes[].name": {doc: "Name of the node.", required: true, form: dnsLabel},
	"local.nodes[].gpus": {doc: "Declared cards; real ones are used first where they are found.", max: most, byValue: "0"},

	"slurm":             {doc: "For cluster: slurm."},
	"slurm.partition":   {doc: "As sbatch --partition.", form: plainName},
	"slurm.account":     {doc: "As sbatch --account.", form: plainName},
	"slurm.qos":         {doc: "As sbatch --qos.", form: plainName},
	"slurm.time":        {doc: "Walltime of each job, such as 24h."},
	"slurm.constraint":  {doc: "As sbatch --constraint.", form: constraints},
	"slurm.reservation": {doc: "As sbatch --reservation.", form: plainName},
	"slurm.gpuOption":   {doc: "Option of sbatch that asks for cards: gres, gpus-per-node, or none where slurm.sbatch does it.", form: gpuOption, byValue: "gres"},
	"slurm.setup":       {doc: "Shell lines of the job before Penstock's agent, such as module load."},
	"slurm.setup[]":     {doc: "One line of bash, or several.", free: true},
	"slurm.sbatch":      {doc: "Further options, as sbatch takes them."},
	"slurm.sbatch[]":    {doc: "One option, such as --exclusive.", form: sbatchOption},

	"nomad":                         {doc: "For cluster: nomad."},
	"nomad.namespace":               {doc: "Namespace of the jobs.", form: plainName},
	"nomad.datacenters":             {doc: "Datacenters that may run them."},
	"nomad.datacenters[]":           {doc: "Name of a datacenter, or a pattern with *.", form: newForm(`^[A-Za-z0-9*][A-Za-z0-9._*-]*$`, "datacenter", "use letters, digits and ._*- only")},
	"nomad.nodePool":                {doc: "Node pool of the jobs.", form: plainName},
	"nomad.driver":                  {doc: "Task driver: raw_exec, exec, docker or podman.", form: nomadDriver, byValue: "raw_exec"},
	"nomad.priority":                {doc: "Priority of the jobs, 1 to 100; 0 = Nomad's default.", max: 100, byValue: "0"},
	"nomad.image":                   {doc: "Image for docker or podman: holds penstock's program and the engine.", form: imageName},
	"nomad.mounts":                  {doc: "Folders of the client for docker or podman, as SRC:DST[:ro], such as those with weights."},
	"nomad.mounts[]":                {doc: "SRC:DST or SRC:DST:ro.", form: mountPair},
	"nomad.user":                    {doc: "User of docker's and podman's tasks, as a number. Default: the image's.", form: newForm(`^[0-9]{1,9}$`, "number of a user", "write it as 1000"), literal: true},
	"nomad.constraints":             {doc: "What a client must be like to run replicas, as in Nomad's constraint block."},
	"nomad.constraints[]":           {doc: "A constraint."},
	"nomad.constraints[].attribute": {doc: "Attribute, such as ${attr.cpu.arch}.", required: true, form: nomadAttribute},
	"nomad.constraints[].operator":  {doc: "How it is compared.", form: nomadOperator, byValue: "="},
	"nomad.constraints[].value":     {doc: "With what it is compared.", literal: true, free: true},
	"nomad.spread":                  {doc: "Attribute over whose values replicas are spread evenly, such as ${node.datacenter}.", form: nomadAttribute},
}
