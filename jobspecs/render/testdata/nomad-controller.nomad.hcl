# Made by `penstock render`. Nothing here is secret: what its tasks join with is the variable nomad/jobs/penstock-controller.
job "penstock-controller" {
  type        = "service"
  datacenters = ["*"]
  priority    = 80

  group "controller" {
    count = 1

    restart {
      attempts = 10
      interval = "10m"
      delay    = "5s"
      mode     = "delay"
    }

    reschedule {
      delay          = "5s"
      delay_function = "constant"
      unlimited      = true
    }

    network {
      port "agents" {
        static = 7171
      }
      port "gateway" {
        static = 7172
      }
    }

    volume "state" {
      type   = "host"
      source = "penstock"
    }

    service {
      name     = "penstock-controller"
      provider = "nomad"
      port     = "gateway"

      check {
        name     = "listens"
        type     = "tcp"
        port     = "gateway"
        interval = "10s"
        timeout  = "2s"
      }
    }

    task "serve" {
      driver       = "exec"
      kill_signal  = "SIGTERM"
      kill_timeout = "30s"

      config {
        args    = ["serve", "--nomad", "on", "--state-dir", "/penstock/state", "--runtime-dir", "${NOMAD_SECRETS_DIR}/run", "--listen", ":7171", "--advertise", "${attr.unique.network.ip-address}", "--gateway-listen", ":7172", "--gateway-advertise", "${attr.unique.network.ip-address}"]
        command = "/usr/local/bin/penstock"
      }

      env {
        NOMAD_ADDR = "unix://${NOMAD_SECRETS_DIR}/api.sock"
      }

      volume_mount {
        volume      = "state"
        destination = "/penstock"
      }

      resources {
        cpu    = 1000
        memory = 1024
      }
    }
  }
}
