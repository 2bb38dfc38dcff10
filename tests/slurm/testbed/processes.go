package testbed

import (
	"bytes"
	"fmt"
	"os"
	"strings"
)

// variableOf reads one variable of a process's environment.
func variableOf(pid int, name string) (string, bool) {
	env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	for kv := range bytes.SplitSeq(env, []byte{0}) {
		if k, v, ok := strings.Cut(string(kv), "="); ok && k == name {
			return v, true
		}
	}
	return "", false
}

func commandLine(pid int) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.TrimSpace(strings.ReplaceAll(string(text), "\x00", " "))
}

// WithVariable lists the command lines of the processes on all machines that have a variable of this value in their
// environment, each after its machine's name.
func (b *Bed) WithVariable(name, value string) (lines []string) {
	for _, m := range b.machines {
		for _, pid := range m.Processes() {
			if v, ok := variableOf(pid, name); ok && v == value && alive(pid) {
				lines = append(lines, m.Name+": "+commandLine(pid))
			}
		}
	}
	return lines
}

// CommandLines lists what runs on the machine, process 1 and zombies left out.
func (m *Machine) CommandLines() (lines []string) {
	for _, pid := range m.Processes() {
		if line := commandLine(pid); line != "" && alive(pid) {
			lines = append(lines, line)
		}
	}
	return lines
}
