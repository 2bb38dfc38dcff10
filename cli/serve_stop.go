package cli

import (
	"context"
	"os"
	"strings"
	"syscall"
	"time"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// stopController asks the one that runs to end, and waits until its process is gone.
func stopController(ctx context.Context, inv *invocation) error {
	client, done, err := inv.control()
	if err != nil {
		return err
	}
	defer done()
	v, err := client.Version(ctx, &apiv1.VersionRequest{})
	if err != nil {
		return err
	}
	serving, err := awaitEnding(ctx, inv, client)
	if err != nil {
		return err
	}
	if _, err := client.Shutdown(ctx, &apiv1.ShutdownRequest{}); err != nil {
		return err
	}
	for {
		if _, err := client.Version(ctx, &apiv1.VersionRequest{}); err != nil && !processLives(v) {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	if inv.json() {
		return inv.printJSON("serve_stop", map[string]any{"stopped": true, "pid": v.Pid})
	}
	inv.say("controller of term %d has ended; %s", v.Term, leftBehind(serving))
	return nil
}

// endingSlack is what the end of a deployment takes beyond draining: the grace before a job is killed, and to see it gone.
const endingSlack = 40 * time.Second

// awaitEnding waits for replicas of stopped deployments: without a controller nobody would see to their end. It gives up
// when they should be gone and are not, since a node that does not answer may never be heard of again. It returns the names of those that are not stopped.
func awaitEnding(ctx context.Context, inv *invocation, client apiv1.ControlServiceClient) (serving []string, err error) {
	begun, told := inv.now(), map[string]*progress{}
	for {
		st, err := client.Status(ctx, &apiv1.StatusRequest{})
		if err != nil {
			return nil, err
		}
		left, patience := ending(st)
		if len(left) == 0 {
			return notStopped(st), nil
		}
		for _, d := range left {
			if told[d.Name] == nil {
				told[d.Name] = newProgress(inv, followOptions{deployment: d.Name, until: "stopped"})
				inv.say("waiting for the end of %s: %s", d.Name, d.Reason)
			}
			told[d.Name].show(d, st.At.AsTime())
		}
		if inv.now().Sub(begun) > patience {
			return nil, stillEnding(left, patience)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func notStopped(st *apiv1.StatusResponse) (names []string) {
	for _, d := range st.Deployments {
		if d.State != "stopped" {
			names = append(names, d.Name)
		}
	}
	return names
}

// leftBehind says what runs on without a controller.
func leftBehind(serving []string) string {
	switch len(serving) {
	case 0:
		return "nothing of it runs any more"
	case 1:
		return serving[0] + " goes on without it: nothing is replaced until the next `penstock serve`"
	}
	return strings.Join(serving, ", ") + " go on without it: nothing is replaced until the next `penstock serve`"
}

// ending gives the deployments that are stopping, and how long that takes where all goes well.
func ending(st *apiv1.StatusResponse) (left []*apiv1.DeploymentStatus, patience time.Duration) {
	for _, d := range st.Deployments {
		if d.State == "stopping" {
			left = append(left, d)
			patience = max(patience, d.DrainTimeout.AsDuration()+endingSlack)
		}
	}
	return left, patience
}

func stillEnding(left []*apiv1.DeploymentStatus, after time.Duration) error {
	var names, what []string
	for _, d := range left {
		names = append(names, d.Name)
		what = append(what, d.Name+" ("+d.Reason+")")
	}
	hint := "the controller runs on, since nobody else would see to their end\n" +
		"penstock status " + names[0] + "  says what is left\n" +
		"penstock stop " + strings.Join(names, " ") + " --now  cuts it short\n" +
		"SIGTERM ends the controller all the same; the next one sees to the rest"
	return fail(ExitTimeout, hint, "still stopping after %s: %s", after, strings.Join(what, ", "))
}

// processLives says whether the controller's process is still there, where it is on this host.
func processLives(v *apiv1.VersionResponse) bool {
	host, _ := os.Hostname()
	return host == v.Hostname && syscall.Kill(int(v.Pid), 0) == nil
}
