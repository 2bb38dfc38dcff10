# Made by `penstock render`. Nothing here is secret: what its tasks join with is the variable nomad/jobs/penstock-x.
job "penstock-x" {
  type        = "service"
  datacenters = ["*"]

  meta {
    penstock_deployment   = "x"
    penstock_installation = "0123456789abcdef0123456789abcdef"
  }

  group "mixed" {
    count                 = 1
    shutdown_delay        = "45s"
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
      auto_revert       = true
      health_check      = "checks"
      min_healthy_time  = "10s"
      healthy_deadline  = "15m"
      progress_deadline = "20m"
    }

    migrate {
      max_parallel     = 1
      health_check     = "checks"
      min_healthy_time = "10s"
      healthy_deadline = "15m"
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
      driver       = "exec"
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
{{ with nomadVar "nomad/jobs/penstock-x" }}{{ .join }}{{ end }}
EOH
        destination = "${NOMAD_SECRETS_DIR}/join.json"
        perms       = "0600"
        uid         = 65534
        gid         = 65534
        change_mode = "noop"
      }

      template {
        data        = <<EOH
{{ with nomadVar "nomad/jobs/penstock-x" }}{{ .endpoint }}{{ end }}
EOH
        destination = "${NOMAD_SECRETS_DIR}/endpoint.json"
        perms       = "0600"
        uid         = 65534
        gid         = 65534
        change_mode = "noop"
      }

      resources {
        cpu    = 500
        memory = 256
      }
    }
  }
}
