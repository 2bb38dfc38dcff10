# Made by `penstock render`. Nothing here is secret: what its tasks join with is the variable nomad/jobs/penstock-llama-70b.
job "penstock-llama-70b" {
  type        = "service"
  datacenters = ["*"]

  meta {
    penstock_deployment   = "llama-70b"
    penstock_installation = "0123456789abcdef0123456789abcdef"
  }

  group "prefill" {
    count                 = 2
    shutdown_delay        = "2m45s"
    max_client_disconnect = "1h"

    meta {
      penstock_revision = "1"
    }

    scaling {
      enabled = true
      min     = 0
      max     = 1000
    }

    update {
      max_parallel      = 1
      canary            = 1
      auto_promote      = true
      auto_revert       = true
      health_check      = "checks"
      min_healthy_time  = "10s"
      healthy_deadline  = "29m"
      progress_deadline = "34m"
    }

    migrate {
      max_parallel     = 1
      health_check     = "checks"
      min_healthy_time = "10s"
      healthy_deadline = "29m"
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

    network {
      port "data" {
      }
      port "ready" {
      }
    }

    service {
      name     = "penstock-llama-70b-prefill"
      provider = "nomad"
      port     = "data"
      tags     = ["prefill"]

      check {
        name     = "ready"
        type     = "tcp"
        port     = "ready"
        interval = "5s"
        timeout  = "2s"
      }
    }

    task "agent" {
      driver       = "raw_exec"
      kill_signal  = "SIGTERM"
      kill_timeout = "30s"

      config {
        args    = ["agent", "--cluster", "nomad", "--join", "${NOMAD_SECRETS_DIR}/join.json", "--nodes", "1", "--kill-wait", "30s"]
        command = "/usr/local/bin/penstock"
      }

      env {
        PENSTOCK_NODE = "${node.unique.name}"
      }

      template {
        data        = <<EOH
{{ with nomadVar "nomad/jobs/penstock-llama-70b" }}{{ .join }}{{ end }}
EOH
        destination = "${NOMAD_SECRETS_DIR}/join.json"
        perms       = "0600"
        change_mode = "noop"
      }

      template {
        data        = <<EOH
{{ with nomadVar "nomad/jobs/penstock-llama-70b" }}{{ .endpoint }}{{ end }}
EOH
        destination = "${NOMAD_SECRETS_DIR}/endpoint.json"
        perms       = "0600"
        change_mode = "noop"
      }

      resources {
        cpu    = 500
        memory = 241664

        device "nvidia/gpu" {
          count = 4

          constraint {
            attribute = "${device.model}"
            operator  = "regexp"
            value     = "(?i)h100"
          }
        }
      }
    }
  }
}
