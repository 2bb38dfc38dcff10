package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// Each flag has a variable of its name: --dry-run has PENSTOCK_DRY_RUN. A flag on the command line wins. Settings find
// theirs by themselves (settings.go), since they come from files too. No flag holds a secret, so no variable does.

// fromEnvironment returns flags for all variables that are set and whose flags are not given. An empty variable is not set.
func fromEnvironment(cmd *cli.Command, given []string, getenv func(string) string) (out []string, err error) {
	for _, f := range cmd.Flags {
		name := f.Names()[0]
		v := getenv(envName(name))
		if v == "" || isSetting(name) || isGiven(f, given) {
			continue
		}
		if err := checkValue(f, v); err != nil {
			return nil, usageError("%s: %v", envName(name), err)
		}
		values := []string{v}
		if _, list := f.(*cli.StringSliceFlag); list {
			values = strings.Split(v, ",")
		}
		for _, v := range values {
			out = append(out, "--"+name+"="+v)
		}
	}
	return out, nil
}

func isSetting(flag string) bool {
	return slices.ContainsFunc(settings, func(s setting) bool { return s.Flag == flag })
}

// isGiven looks for a flag among words that are flags and their values.
func isGiven(f cli.Flag, words []string) bool {
	return slices.ContainsFunc(words, func(w string) bool {
		name, _, _ := strings.Cut(strings.TrimLeft(w, "-"), "=")
		return strings.HasPrefix(w, "-") && slices.Contains(f.Names(), name)
	})
}

// checkValue is the library's own check with words that fit a variable.
func checkValue(f cli.Flag, v string) error {
	var err error
	switch f.(type) {
	case *cli.BoolFlag:
		if _, err = strconv.ParseBool(v); err != nil {
			return fmt.Errorf("%q is neither true nor false", v)
		}
	case *cli.IntFlag:
		_, err = strconv.Atoi(v)
	case *cli.UintFlag, *cli.Uint64Flag:
		_, err = strconv.ParseUint(v, 10, 64)
	case *cli.Float64Flag:
		_, err = strconv.ParseFloat(v, 64)
	case *cli.DurationFlag:
		if _, err = time.ParseDuration(v); err != nil {
			return fmt.Errorf("%q is no duration such as 90s or 1h30m", v)
		}
	}
	if err != nil {
		return fmt.Errorf("%q is no number that fits", v)
	}
	return nil
}
