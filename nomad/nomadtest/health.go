package nomadtest

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/nomad/api"
)

// watchHealth judges an allocation of a deployment: healthy once its tasks have run, and its checks have passed, for the
// time that its group asks for.
func (s *Server) watchHealth(a *alloc) {
	g := a.group()
	u := updateOf(a.job, g)
	if a.DeploymentID == "" || u == nil || a.ClientStatus != api.AllocClientStatusRunning {
		return
	}
	version, deadline := *a.job.Version, time.Now().Add(*u.HealthyDeadline)
	checks := checksOf(a, g)
	s.running.Go(func() {
		s.judge(a, version, deadline, s.wait(u.MinHealthyTime), *u.HealthCheck == "checks" && len(checks) > 0, checks)
	})
}

// judge waits until the allocation has been well for long enough, or the deadline.
func (s *Server) judge(a *alloc, version uint64, deadline time.Time, well time.Duration, useChecks bool, checks []check) {
	const step = 20 * time.Millisecond
	since := time.Now()
	for ; ; time.Sleep(step) {
		good := !useChecks || allPass(checks)
		if !good {
			since = time.Now()
		}
		s.mu.Lock()
		running := a.ClientStatus == api.AllocClientStatusRunning && a.DesiredStatus == api.AllocDesiredStatusRun && !a.asked
		switch {
		case s.closed || !running || *a.job.Version != version || a.DeploymentStatus != nil && a.DeploymentStatus.Healthy != nil:
			s.mu.Unlock()
			return
		case good && time.Since(since) >= well:
			s.healthChanged(a, true)
			s.mu.Unlock()
			return
		case time.Now().After(deadline):
			s.healthChanged(a, false)
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
	}
}

// check is one service check with its address.
type check struct {
	kind, url, address string
	timeout            time.Duration
}

// checksOf lists the http and tcp checks of a group and its tasks.
func checksOf(a *alloc, g *api.TaskGroup) (out []check) {
	services := append([]*api.Service(nil), g.Services...)
	for _, t := range g.Tasks {
		services = append(services, t.Services...)
	}
	ports := map[string]string{}
	for _, p := range a.AllocatedResources.Shared.Ports {
		ports[p.Label] = net.JoinHostPort(p.HostIP, fmt.Sprint(p.Value))
	}
	for _, svc := range services {
		for _, c := range svc.Checks {
			label := c.PortLabel
			if label == "" {
				label = svc.PortLabel
			}
			scheme := c.Protocol
			if scheme == "" {
				scheme = "http"
			}
			if address := ports[label]; address != "" {
				out = append(out, check{kind: c.Type, url: scheme + "://" + address + c.Path, address: address, timeout: max(c.Timeout, time.Second)})
			}
		}
	}
	return out
}

func allPass(checks []check) bool {
	for _, c := range checks {
		if !c.passes() {
			return false
		}
	}
	return true
}

func (c check) passes() bool {
	if c.kind == "tcp" {
		conn, err := net.DialTimeout("tcp", c.address, c.timeout)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport, Timeout: c.timeout}).Get(c.url)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode < http.StatusBadRequest
}
