package testbed

import (
	"fmt"
	"net"
	"strings"
)

// configuration is an agent's. Everything is on loopback, nothing is asked of the outside, and the server takes a client for
// lost after a few seconds.
func (b *Bed) configuration(a Agent) string {
	var c strings.Builder
	fmt.Fprintf(&c, `name = %q
data_dir = "%s/%s/data"
bind_addr = "127.0.0.1"
log_level = "INFO"
disable_update_check = true
leave_on_interrupt = false
leave_on_terminate = false
ports {
  http = %d
  rpc = %d
  serf = %d
}
advertise {
  http = "127.0.0.1:%d"
  rpc = "127.0.0.1:%d"
  serf = "127.0.0.1:%d"
}
consul {
  auto_advertise = false
  server_auto_join = false
  client_auto_join = false
}
limits {
  http_max_conns_per_client = 1000
}
acl {
  enabled = %t
}
`, a.Name, b.Dir, a.Name, a.HTTP, a.RPC, a.Serf, a.HTTP, a.RPC, a.Serf, b.Options.ACL)
	if a.Name == b.Server.Name {
		c.WriteString("server {\n  enabled = true\n  bootstrap_expect = 1\n  heartbeat_grace = \"3s\"\n  min_heartbeat_ttl = \"5s\"\n}\n")
	} else {
		b.client(&c, a)
	}
	if b.Options.TLS {
		role := "client"
		if a.Name == b.Server.Name {
			role = "server"
		}
		fmt.Fprintf(&c, "tls {\n  http = true\n  rpc = true\n  ca_file = %q\n  cert_file = %q\n  key_file = %q\n  verify_https_client = true\n  verify_server_hostname = true\n}\n",
			b.tls("ca.pem"), b.tls(role+".pem"), b.tls(role+".key"))
	}
	return c.String()
}

func (b *Bed) client(c *strings.Builder, a Agent) {
	fmt.Fprintf(c, `client {
  enabled = true
  servers = ["127.0.0.1:%d"]
  network_interface = "lo"
  cpu_total_compute = 20000
  memory_total_mb = 8192
  min_dynamic_port = %d
  max_dynamic_port = %d
  max_kill_timeout = "60s"
  gc_interval = "10m"
  options = {
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean,consul,vault"
    "driver.denylist" = "docker,qemu,java"
  }
}
plugin "raw_exec" {
  config {
    enabled = true
  }
}
`, b.Server.RPC, a.MinPort, a.MinPort+999)
	if b.Options.Plugins != "" {
		fmt.Fprintf(c, "plugin_dir = %q\n", b.Options.Plugins)
	}
	if b.Options.Devices != "" {
		fmt.Fprintf(c, "plugin %q {\n  config {\n    dir = \"%s/%s/gpus\"\n    list_period = \"1s\"\n  }\n}\n", b.Options.Devices, b.Dir, a.Name)
	}
}

// freePorts finds ports that nobody listens on now.
func freePorts(n int) (ports []int, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all at the end, so that no port is found twice
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
