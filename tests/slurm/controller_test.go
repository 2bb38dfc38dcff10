package slurm

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/tests/installation"
	"github.com/penstock/penstock/tests/slurm/testbed"
	"github.com/penstock/penstock/tests/traffic"
)

// TestControllerMoves: the controller is killed and started on another node. Streams through a gateway of its own go on.
func TestControllerMoves(t *testing.T) {
	slow(t)
	w := start(t, testbed.Options{}, deployment("gpu", "12h"))
	before := w.replicas()
	w.gateway()
	w.traffic()
	w.tr.Mark()
	begin := time.Now()
	w.signal(w.one("serve"), syscall.SIGKILL)
	w.tr.Finished(w.ctx, 2*traffic.Streams)
	login := w.on
	w.on = w.bed.Node(4)
	w.serve()
	w.until("the new controller sees both replicas", ready(2))
	took := time.Since(begin)
	w.same(before)
	w.tr.Finished(w.ctx, 2*traffic.Streams)
	w.must("scale", "web", "mixed=3")
	w.until("a third replica is ready", ready(3))
	w.on, login = login, w.on // the command line works on every node
	w.must("status")
	w.on = login
	w.finish(12, "controller killed, started again on another node", seconds("sees all replicas again after", took))
}

// TestSecondController: another node starts a controller on the same state folder.
func TestSecondController(t *testing.T) {
	slow(t)
	w := start(t, testbed.Options{}, deployment("gpu", "12h"))
	before := w.replicas()
	w.traffic()
	w.tr.Mark()
	w.on = w.bed.Node(3)
	ctx, cancel := context.WithTimeout(w.ctx, time.Minute)
	defer cancel()
	_, err := w.Run(ctx, "serve", "--listen", w.on.Addr+":0")
	if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "login") {
		t.Errorf("a second controller was not refused with the first one's host: %v", err)
	}
	w.note("refused: %v", err)
	w.on = w.bed.Login()
	w.tr.Finished(w.ctx, 2*traffic.Streams)
	w.same(before)
	w.finish(13, "second controller on the same state folder from another node", "refused")
}

// TestControllerWalltime: the controller is a job itself and hands over to its successor before its two minutes are over.
func TestControllerWalltime(t *testing.T) {
	slow(t)
	w := setup(t, testbed.Options{})
	w.must("run", "--controller", "job", "--controller-sbatch", "--partition=short --time=2", "--timeout", "120s", w.file("web", deployment("gpu", "12h")))
	w.connect()
	w.gateway()
	before := w.replicas()
	w.traffic()
	w.tr.Mark()
	first := w.asAlice("squeue", "-h", "-n", "penstock-controller", "-t", "R", "-o", "%i")
	w.untilTrue("job "+first+" of the first controller is over", func() bool {
		out, err := w.bed.Root(w.ctx, "squeue", "-h", "-t", "all", "-j", first, "-o", "%T")
		return err == nil && out != "RUNNING" && out != "PENDING" && out != "COMPLETING"
	})
	w.until("its successor sees both replicas", ready(2))
	w.same(before)
	w.note("jobs: %s", w.asRoot("squeue", "-h", "-t", "all", "-o", "%i %j %T %M"))
	w.tr.Finished(w.ctx, traffic.Streams)
	w.finish(15, "walltime of the controller's own job", "no replica changed")
}

// gateway starts a gateway of its own on login and makes it the one that the traffic goes through.
func (w *world) gateway() {
	w.t.Helper()
	log := filepath.Join(w.bed.Dir, "log", "gateway.log")
	out, err := os.Create(log)
	w.no(err)
	defer out.Close()
	cmd := w.Command(context.WithoutCancel(w.ctx), "gateway", "--name", "other", "--log-format", "json")
	cmd.Stderr = out
	w.no(cmd.Start())
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	w.gateways = append(w.gateways, func() {
		for _, p := range w.Find("", "gateway") {
			_ = syscall.Kill(p.PID, syscall.SIGTERM)
		}
		<-ended
	})
	w.untilTrue("the gateway serves", func() bool {
		text, _ := os.ReadFile(log)
		for line := range strings.Lines(string(text)) {
			if _, rest, ok := strings.Cut(line, `"url":"`); ok && strings.Contains(line, "gateway serves") {
				w.client.URL, _, _ = strings.Cut(rest, `"`)
				return true
			}
		}
		return false
	})
	w.untilTrue("the gateway has a replica", func() bool {
		resp, err := w.client.HTTP.Get(strings.TrimSuffix(w.client.URL, "/v1") + "/ready")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// one finds the one process that runs a subcommand of the program.
func (w *world) one(words ...string) installation.Process {
	w.t.Helper()
	found := w.Find("", words...)
	if len(found) != 1 {
		w.t.Fatalf("%d processes run %v: %+v", len(found), words, found)
	}
	return found[0]
}

func (w *world) signal(p installation.Process, sig syscall.Signal) {
	w.t.Helper()
	if err := syscall.Kill(p.PID, sig); err != nil {
		w.t.Fatalf("signal %v to %v: %v", sig, p.Command, err)
	}
}

// engines lists the engines of a launch on all nodes.
func (w *world) engines(launch string) (lines []string) {
	for _, line := range w.bed.WithVariable("PENSTOCK_LAUNCH", launch) {
		if strings.Contains(line, " engine sim") {
			lines = append(lines, line)
		}
	}
	return lines
}
