package identity

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

var update = flag.Bool("update", false, "rewrite golden files")

// procedures lists every call of the wire contract.
func procedures() (list []string) {
	services := apiv1.File_v1_penstock_proto.Services()
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			list = append(list, fmt.Sprintf("/%s/%s", services.Get(i).FullName(), methods.Get(j).Name()))
		}
	}
	return list
}

// TestEveryCallHasCallers: a new call does not pass until somebody has said who may make it.
func TestEveryCallHasCallers(t *testing.T) {
	t.Parallel()
	all := procedures()
	if len(all) < 20 {
		t.Fatalf("the contract has %d calls", len(all))
	}
	for _, p := range all {
		if len(callers[p]) == 0 {
			t.Errorf("%s is in no row of the table", p)
		}
	}
	for p := range callers {
		if !slices.Contains(all, p) {
			t.Errorf("%s is in the table and not in the contract", p)
		}
	}
}

// TestTable shows the whole table, so that a change of who may do what shows up in review.
func TestTable(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for _, p := range procedures() {
		row := fmt.Sprintf("%-45s", p)
		for _, role := range []Role{Nobody, Agent, Gateway, CLI, Controller} {
			word := "-"
			if Allowed(role, p) {
				if word = string(role); role == Nobody {
					word = "nobody"
				}
			}
			row += fmt.Sprintf(" %-10s", word)
		}
		b.WriteString(strings.TrimRight(row, " ") + "\n")
	}
	const golden = "testdata/table.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || string(want) != b.String() {
		t.Errorf("%v; the table is\n%s", err, b.String())
	}
}

func TestAuthorize(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		role      Role
		procedure string
		want      error
	}{
		{CLI, apiv1.ControlServiceApplyProcedure, nil},
		{Nobody, apiv1.AgentServiceJoinProcedure, nil},
		{Nobody, apiv1.ControlServiceApplyProcedure, ErrNoIdentity},
		{Agent, apiv1.ControlServiceApplyProcedure, ErrNotAllowed},
		{Gateway, apiv1.AgentServiceReportProcedure, ErrNotAllowed},
		{Agent, apiv1.GatewayServiceWatchProcedure, ErrNotAllowed}, // keys' hashes go over it
		{CLI, "/penstock.v1.ControlService/Unheard", ErrNotAllowed},
		{"root", apiv1.ControlServiceApplyProcedure, ErrNotAllowed},
	} {
		if err := Authorize(c.role, c.procedure); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%q calls %s: %v, want %v", c.role, c.procedure, err, c.want)
		}
	}
}
