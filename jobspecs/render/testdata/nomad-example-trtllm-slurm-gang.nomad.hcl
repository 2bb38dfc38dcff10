# Made by `penstock render`. Nothing here is secret: what its tasks join with is the variable nomad/jobs/penstock-trt-llama-mixed-0-k3v9x2mq.
job "penstock-trt-llama-mixed-0-k3v9x2mq" {
  type        = "batch"
  datacenters = ["*"]

  meta {
    penstock_deployment   = "trt-llama"
    penstock_installation = "0123456789abcdef0123456789abcdef"
    penstock_launch       = "trt-llama-mixed-0-k3v9x2mq"
  }

  group "mixed" {
    count          = 2
    shutdown_delay = "45s"

    constraint {
      distinct_hosts = true
    }

    constraint {
      attribute = "${node.unique.name}"
      operator  = "!="
      value     = "bad1"
    }

    constraint {
      attribute = "${node.unique.name}"
      operator  = "!="
      value     = "bad2"
    }

    restart {
      attempts = 0
      mode     = "fail"
    }

    reschedule {
      attempts  = 0
      unlimited = false
    }

    network {
      port "data" {
      }
      port "ready" {
      }
    }

    task "agent" {
      driver       = "raw_exec"
      kill_signal  = "SIGTERM"
      kill_timeout = "30s"

      config {
        args    = ["agent", "--cluster", "nomad", "--join", "${NOMAD_SECRETS_DIR}/join.json", "--nodes", "2", "--kill-wait", "30s"]
        command = "/usr/local/bin/penstock"
      }

      env {
        PENSTOCK_LAUNCH = "trt-llama-mixed-0-k3v9x2mq"
        PENSTOCK_NODE   = "${node.unique.name}"
        PENSTOCK_RUN    = "0c9a4bd1"
      }

      template {
        data        = <<EOH
{{ with nomadVar "nomad/jobs/penstock-trt-llama-mixed-0-k3v9x2mq" }}{{ .join }}{{ end }}
EOH
        destination = "${NOMAD_SECRETS_DIR}/join.json"
        perms       = "0600"
        change_mode = "noop"
      }

      template {
        data        = <<EOH
{{ with nomadVar "nomad/jobs/penstock-trt-llama-mixed-0-k3v9x2mq" }}{{ .endpoint }}{{ end }}
EOH
        destination = "${NOMAD_SECRETS_DIR}/endpoint.json"
        perms       = "0600"
        change_mode = "noop"
      }

      resources {
        cpu    = 500
        memory = 69632

        device "nvidia/gpu" {
          count = 8

          affinity {
            attribute = "${device.attr.memory}"
            operator  = "<="
            value     = "40 GiB"
            weight    = 10
          }
        }
      }
    }
  }
}
