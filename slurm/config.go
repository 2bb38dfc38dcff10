package slurm

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// cached is an answer that changes seldom.
type cached[T any] struct {
	value T
	at    time.Time
}

// configFor is how long Slurm's configuration is taken for unchanged.
const configFor = time.Hour

// Config is what matters of Slurm's configuration.
type Config struct {
	Version    string
	Cluster    string
	KillWait   time.Duration // between TERM and KILL
	MinJobAge  time.Duration // for how long ended jobs are remembered
	Accounting bool
	// WarnsBeforePreemption: a job's own signal comes before preemption too (PreemptParameters=send_user_signal).
	WarnsBeforePreemption bool
}

// Config asks Slurm for its configuration, seldom.
func (c *Cluster) Config(ctx context.Context) (Config, error) {
	c.mu.Lock()
	have := c.config
	c.mu.Unlock()
	if !have.at.IsZero() && c.now().Sub(have.at) < configFor {
		return have.value, nil
	}
	value, err := c.slurm.config(ctx)
	if err != nil {
		if !have.at.IsZero() {
			return have.value, nil // of an hour ago, and as good as ever
		}
		return Config{}, fmt.Errorf("ask Slurm for its configuration: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.config = cached[Config]{value, c.now()}
	return value, nil
}

func parseConfig(out string) (Config, error) {
	values := map[string]string{}
	for line := range strings.Lines(out) {
		if name, value, ok := strings.Cut(line, "="); ok {
			values[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	conf := Config{
		Version: values["SLURM_VERSION"], Cluster: values["ClusterName"],
		Accounting:            values["AccountingStorageType"] != "" && !strings.HasSuffix(values["AccountingStorageType"], "/none") && values["AccountingStorageType"] != "(null)",
		WarnsBeforePreemption: strings.Contains(values["PreemptParameters"], "send_user_signal"),
	}
	var err error
	if conf.KillWait, err = seconds(values["KillWait"]); err != nil {
		return conf, fmt.Errorf("KillWait: %w", err)
	}
	if conf.MinJobAge, err = seconds(values["MinJobAge"]); err != nil {
		return conf, fmt.Errorf("MinJobAge: %w", err)
	}
	return conf, nil
}

// seconds reads "30 sec".
func seconds(text string) (time.Duration, error) {
	word, _, _ := strings.Cut(text, " ")
	n, err := strconv.ParseUint(word, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%q is no number of seconds", cut(text))
	}
	return time.Duration(n) * time.Second, nil
}
