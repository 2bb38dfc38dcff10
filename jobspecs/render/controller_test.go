package render

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestControllerSubmitsItsSuccessor: a quarter of its time before the end, by its own clock.
func TestControllerSubmitsItsSuccessor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(file string) string { return filepath.Join(dir, file) }
	write(t, at("serve"), "#!/bin/bash\nuntil [ -e \"$0.stop\" ]; do sleep 0.01; done\n", 0o700)
	write(t, at("sbatch"), "#!/bin/bash\necho 42\ntouch \""+at("submitted")+"\"\n", 0o700)
	write(t, at("scancel"), "#!/bin/bash\n", 0o700)
	write(t, at("squeue"), "#!/bin/bash\necho $(($(date +%s) + 4))\n", 0o700)
	script, err := Controller(ControllerJob{Penstock: at("serve"), StateDir: "/state", Script: "/script"})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-c", script)
	cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "SLURM_JOB_ID=7"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, at("submitted"))
	write(t, at("serve.stop"), "", 0o600)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestControllerGolden(t *testing.T) {
	t.Parallel()
	got, err := Controller(ControllerJob{
		Penstock: "/home/it's me/penstock", StateDir: "/home/it's me/100%/state", Script: "/home/it is me/state/controller.sbatch",
		Sbatch: []string{"--partition=cpu", "--time=7-0", "--comment=do not kill"},
	})
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "slurm-controller.sh")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := Controller(ControllerJob{Sbatch: []string{"--a\n#SBATCH -b"}}); err == nil {
		t.Error("an option on two lines is taken")
	}
}

// TestControllerScript: when its time nears its end it submits itself again, once serve has ended by itself a successor that waits is
// cancelled, and one is kept where Slurm has ended the job.
func TestControllerScript(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		end      syscall.Signal // to the script, as Slurm does; 0 = serve is told to stop
		cancels  bool
		exitCode int
	}{
		"told to stop": {0, true, 3},
		"time is over": {syscall.SIGTERM, false, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			at := func(file string) string { return filepath.Join(dir, file) }
			write(t, at("serve"), "#!/bin/bash\ntrap '' TERM USR2\necho \"$@\" >\"$0.args\"\nuntil [ -e \"$0.stop\" ]; do sleep 0.01; done\nexit 3\n", 0o700)
			write(t, at("sbatch"), "#!/bin/bash\necho \"${@: -1}\" >\""+at("submitted.tmp")+"\"\nmv \""+at("submitted.tmp")+"\" \""+at("submitted")+"\"\necho '42;cluster'\n", 0o700)
			write(t, at("scancel"), "#!/bin/bash\necho \"$@\" >\""+at("cancelled")+"\"\n", 0o700)
			script, err := Controller(ControllerJob{Penstock: at("serve"), StateDir: "/state", Script: "/it's/script"})
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("bash", "-c", script)
			cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "SLURM_JOB_END_TIME=" + strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10)}
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			await(t, at("serve.args"))
			if err := cmd.Process.Signal(syscall.SIGUSR2); err != nil {
				t.Fatal(err)
			}
			await(t, at("submitted"))
			if test.end != 0 {
				if err := cmd.Process.Signal(test.end); err != nil {
					t.Fatal(err)
				}
				time.Sleep(50 * time.Millisecond) // the script's trap runs; a later stop finds it as well
			}
			write(t, at("serve.stop"), "", 0o600)
			_ = cmd.Wait()
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // its timer, which Slurm would end
			if got := lines(t, at("submitted")); got[0] != "/it's/script" {
				t.Errorf("submitted %q", got)
			}
			cancelled, err := os.ReadFile(at("cancelled"))
			if (err == nil) != test.cancels || test.cancels && strings.TrimSpace(string(cancelled)) != "--state=PENDING 42" {
				t.Errorf("cancelled %q, %v", cancelled, err)
			}
			if cmd.ProcessState.ExitCode() != test.exitCode {
				t.Errorf("ended with %v", cmd.ProcessState)
			}
		})
	}
}

func await(t *testing.T, file string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(file); err == nil {
			return
		}
	}
	t.Fatalf("%s does not come", file)
}
