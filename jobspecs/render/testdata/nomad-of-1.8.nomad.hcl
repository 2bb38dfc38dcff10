# Made by `penstock render`. Nothing here is secret: what its tasks join with is the variable nomad/jobs/penstock-x.
job "penstock-x" {
  type        = "service"
  namespace   = "llm"
  datacenters = ["dc1", "dc2-*"]
  node_pool   = "gpu"
  priority    = 70

  constraint {
    attribute = "${attr.cpu.arch}"
    operator  = "="
    value     = "amd64"
  }

  constraint {
    attribute = "${meta.rack}"
    operator  = "is_set"
  }

  spread {
    attribute = "${node.datacenter}"
    weight    = 100
  }

  meta {
    penstock_deployment   = "x"
    penstock_installation = "0123456789abcdef0123456789abcdef"
  }

  group "mixed" {
    count = 3

    meta {
      penstock_revision = "1"
    }

    scaling {
      enabled = true
      min     = 0
      max     = 8
    }

    update {
      max_parallel      = 2
      canary            = 2
      auto_promote      = true
      auto_revert       = true
      health_check      = "checks"
      min_healthy_time  = "10s"
      healthy_deadline  = "22m"
      progress_deadline = "27m"
    }

    migrate {
      max_parallel     = 1
      health_check     = "checks"
      min_healthy_time = "10s"
      healthy_deadline = "22m"
    }

    restart {
      attempts = 3
      interval = "10m"
      delay    = "15s"
      mode     = "fail"
    }

    reschedule {
      delay          = "30s"
      delay_function = "exponential"
      max_delay      = "10m"
      unlimited      = true
    }

    disconnect {
      lost_after = "1h"
      replace    = true
      reconcile  = "keep_original"
    }

    network {
      port "data" {
      }
      port "ready" {
      }
    }

    service {
      name     = "penstock-x-mixed"
      provider = "nomad"
      port     = "data"
      tags     = ["mixed"]

      check {
        name     = "ready"
        type     = "tcp"
        port     = "ready"
        interval = "5s"
        timeout  = "2s"
      }
    }

    task "agent" {
      driver       = "docker"
      user         = "1000"
      kill_signal  = "SIGTERM"
      kill_timeout = "2m15s"

      config {
        args         = ["agent", "--cluster", "nomad", "--join", "${NOMAD_SECRETS_DIR}/join.json", "--nodes", "1", "--kill-wait", "2m15s"]
        command      = "/usr/local/bin/penstock"
        image        = "registry.example.org/serving:1"
        network_mode = "host"
        volumes      = ["/models:/models:ro"]
      }

      env {
        PENSTOCK_NODE = "${node.unique.name}"
      }

      template {
        data        = <<EOH
{{ with nomadVar "nomad/jobs/penstock-x" }}{{ .join }}{{ end }}
EOH
        destination = "${NOMAD_SECRETS_DIR}/join.json"
        perms       = "0600"
        uid         = 1000
        change_mode = "noop"
      }

      template {
        data        = <<EOH
{{ with nomadVar "nomad/jobs/penstock-x" }}{{ .endpoint }}{{ end }}
EOH
        destination = "${NOMAD_SECRETS_DIR}/endpoint.json"
        perms       = "0600"
        uid         = 1000
        change_mode = "noop"
      }

      resources {
        cores  = 16
        memory = 99

        device "nvidia/gpu" {
          count = 2

          constraint {
            attribute = "${device.attr.memory}"
            operator  = ">="
            value     = "76294 MiB"
          }

          constraint {
            attribute = "${device.model}"
            operator  = "regexp"
            value     = "(?i)H100"
          }
        }
      }
    }
  }
}
