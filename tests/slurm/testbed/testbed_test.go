package testbed

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"
)

// TestBed: a user's job over three nodes, GPUs, faults of a node, nothing left.
func TestBed(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	b := ForTest(ctx, t, Options{})
	out, err := b.RunAs(ctx, Alice, "srun", "-N3", "-n3", "-l", "--gres=gpu:h100:2", "sh", "-c", "hostname; id -un; echo $CUDA_VISIBLE_DEVICES")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"node1", "node2", "node3", Alice.Name, ": 0,1"} {
		if !strings.Contains(out, want) {
			t.Errorf("the job's output lacks %q:\n%s", want, out)
		}
	}
	if n, err := b.RPCs(ctx, Alice); err != nil || n == 0 {
		t.Errorf("slurmctld has counted %d questions of %s (%v)", n, Alice.Name, err)
	}
	if token, err := b.Token(ctx, Alice, time.Minute); err != nil || len(token) < 50 {
		t.Errorf("no token: %v", err)
	}
	t.Run("power", func(t *testing.T) {
		node := b.Node(2)
		if err := node.PowerOff(ctx); err != nil {
			t.Fatal(err)
		}
		if b.answers(ctx, node) {
			t.Error("node2 answers without power")
		}
		if err := node.PowerOn(ctx); err != nil {
			t.Fatal(err)
		}
		if !b.answers(ctx, node) {
			t.Error("node2 does not answer")
		}
	})
	t.Run("inbound", func(t *testing.T) {
		if err := b.Node(3).DropInbound(ctx); err != nil {
			t.Fatal(err)
		}
		const patience = time.Second
		short, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		begin := time.Now()
		if c, err := b.Login().DialContext(short, "tcp", b.Node(3).Addr+":1"); err == nil || time.Since(begin) < patience/2 {
			t.Errorf("a dropped dial ended at once: %v %v", c, err)
		}
		if !b.answers(ctx, b.Node(3)) {
			t.Error("Slurm can't reach node3 any more")
		}
	})
	if err := b.Down(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(b.Dir); !os.IsNotExist(err) {
		t.Errorf("the folder is still there: %v", err)
	}
	for _, pid := range allProcesses() {
		if strings.Contains(commandLine(pid), b.Dir) {
			t.Errorf("process %d is left: %s", pid, commandLine(pid))
		}
	}
}

// answers dials a node's slurmd from the login node.
func (b *Bed) answers(ctx context.Context, m *Machine) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c, err := b.Login().DialContext(ctx, "tcp", m.Addr+":6818")
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

func TestCountOf(t *testing.T) {
	report := `Remote Procedure Call statistics by message type
	REQUEST_JOB_INFO                        ( 2003) count:6      ave_time:407    total_time:2446

Remote Procedure Call statistics by user
	root            (       0) count:14     ave_time:317    total_time:4450
	penstock-alice  (   64001) count:9      ave_time:720    total_time:6481

Pending RPC statistics
	No pending RPCs
`
	if got := countOf(report, "Remote Procedure Call statistics by user", "penstock-alice"); got != 9 {
		t.Errorf("count by user: %d", got)
	}
	if got := countOf(report, "Remote Procedure Call statistics by user", "REQUEST_JOB_INFO"); got != 0 {
		t.Errorf("count in the wrong section: %d", got)
	}
}
