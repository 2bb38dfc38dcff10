package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"connectrpc.com/connect"
)

// The exit codes, documented in --help and tested one by one. `plan` alone answers as Nomad does: PlanNoChange,
// PlanChange, PlanError.
const (
	ExitOK          = 0
	ExitError       = 1
	ExitNotPlaced   = 2 // accepted, but not placed
	ExitNotFound    = 3
	ExitAuth        = 4
	ExitTimeout     = 5
	ExitFailed      = 6 // the deployment failed or was rolled back
	ExitUsage       = 64
	ExitInterrupted = 130

	PlanNoChange = 0
	PlanChange   = 1
	PlanError    = 255
)

// exitError is an error that knows its exit code and what to do next.
type exitError struct {
	code int
	err  error
	hint string
	// silent: everything has been said already; only the code matters.
	silent bool
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// exitWith ends the command with a code and no further word.
func exitWith(code int) error {
	return &exitError{code: code, err: fmt.Errorf("exit %d", code), silent: true}
}

func fail(code int, hint, format string, args ...any) error {
	return &exitError{code: code, err: fmt.Errorf(format, args...), hint: hint}
}

func usageError(format string, args ...any) error {
	return &exitError{code: ExitUsage, err: fmt.Errorf(format, args...)}
}

// classify finds code and hint of any error.
func classify(err error) (code int, hint string) {
	var e *exitError
	if errors.As(err, &e) {
		return e.code, e.hint
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded), connect.CodeOf(err) == connect.CodeDeadlineExceeded:
		return ExitTimeout, ""
	case errors.Is(err, context.Canceled):
		return ExitInterrupted, ""
	}
	switch connect.CodeOf(err) {
	case connect.CodeNotFound:
		return ExitNotFound, ""
	case connect.CodeUnauthenticated, connect.CodePermissionDenied:
		return ExitAuth, ""
	case connect.CodeInvalidArgument:
		return ExitUsage, ""
	}
	return ExitError, ""
}

// message is the error's text for people: what a controller answered stands without the wire's own words.
func message(err error) string {
	var ce *connect.Error
	if errors.As(err, &ce) {
		return ce.Message()
	}
	return err.Error()
}

// report prints an error in the form that was asked for and returns the exit code. Talk goes to stderr; with --json the
// error is the data and goes to stdout.
func report(std IO, args []string, err error) int {
	if err == nil {
		return ExitOK
	}
	code, hint := classify(err)
	var e *exitError
	if errors.As(err, &e) && e.silent {
		return code
	}
	if wants("json", args, std) {
		doc := map[string]any{"schema": "penstock.error/v1", "error": map[string]any{
			"code": codeNames[code], "exit": code, "message": strings.TrimPrefix(message(err), "penstock: "), "hint": hint,
		}}
		text, _ := json.Marshal(doc)
		fmt.Fprintln(std.Out, string(text))
		return code
	}
	text := strings.TrimRight(message(err), "\n")
	if !strings.HasPrefix(text, "penstock ") && !strings.HasPrefix(text, "penstock: ") { // usage errors name the command
		text = "penstock: " + text
	}
	if std.color(std.ErrTTY) && !wants("noColor", args, std) {
		text = "\x1b[31mpenstock\x1b[0m" + strings.TrimPrefix(text, "penstock")
	}
	fmt.Fprintln(std.Err, text)
	if hint != "" {
		fmt.Fprintln(std.Err, "  "+strings.ReplaceAll(hint, "\n", "\n  "))
	}
	return code
}

var codeNames = map[int]string{
	ExitError: "error", ExitNotPlaced: "not_placed", ExitNotFound: "not_found", ExitAuth: "unauthenticated",
	ExitTimeout: "timeout", ExitFailed: "failed", ExitUsage: "usage", ExitInterrupted: "interrupted", PlanError: "error",
}

func isSilent(err error) bool {
	var e *exitError
	return errors.As(err, &e) && e.silent
}
