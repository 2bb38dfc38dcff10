# The rights of Penstock's controller on a Nomad with ACLs: what it needs and nothing else. "default" is the namespace of its
# jobs (nomad.namespace of the deployments): one block for each.
#
#   nomad acl policy apply -description "Penstock" penstock nomad/policy/penstock.hcl
#   nomad acl token create -name penstock -policy penstock        # its secret goes into NOMAD_TOKEN of `penstock serve`
namespace "default" {
  capabilities = [
    "list-jobs",        # what runs
    "parse-job",
    "read-job",         # jobs, allocations, evaluations, deployments, their events
    "submit-job",       # register, stop
    "scale-job",
    "read-job-scaling", # who else has scaled
    "alloc-lifecycle",  # signals to allocations that do not obey, and their stop
    "read-logs",        # the last lines of an allocation that fails
  ]
  variables {
    path "nomad/jobs/penstock-*" { # what its own tasks join with; nobody's else
      capabilities = ["read", "write", "destroy", "list"]
    }
  }
}

# Which clients and GPUs there are. Drains and eligibility stay with the operators.
node {
  policy = "read"
}
