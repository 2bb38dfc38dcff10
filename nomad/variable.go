package nomad

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/nomad/api"

	"github.com/penstock/penstock/jobspecs/render"
)

// The items of a job's variable, which its tasks' templates render.
const (
	joinItem     = "join"
	endpointItem = "endpoint"
)

// putVariable writes what a job's tasks join with. Nomad encrypts variables, and lets a job's tasks read those of the job.
func (c *Cluster) putVariable(ctx context.Context, key jobKey, join []byte) error {
	endpoint, err := c.o.Endpoint()
	if err != nil {
		return refused("where the controller is: %w", err)
	}
	was, err := c.variable(ctx, key)
	if err != nil {
		return verdict(err)
	}
	items := api.VariableItems{joinItem: string(join), endpointItem: string(endpoint)}
	if was != nil && was.Items[joinItem] == items[joinItem] && was.Items[endpointItem] == items[endpointItem] {
		return nil
	}
	v := &api.Variable{Namespace: key.namespace, Path: render.NomadVariable(key.id), Items: items}
	_, err = write(ctx, c, "write variable", key.namespace, func(w *api.WriteOptions) (*api.Variable, *api.WriteMeta, error) {
		return c.api.Variables().Create(v, w)
	})
	if err != nil {
		return fmt.Errorf("write variable %s: %w", v.Path, verdict(err))
	}
	return nil
}

// variable returns a job's variable; nil = there is none.
func (c *Cluster) variable(ctx context.Context, key jobKey) (*api.Variable, error) {
	v, err := read(ctx, c, "read variable", key.namespace, func(q *api.QueryOptions) (*api.Variable, *api.QueryMeta, error) {
		return c.api.Variables().Peek(render.NomadVariable(key.id), q)
	})
	if notFound(err) {
		return nil, nil
	}
	return v, err
}

// dropVariable takes a job's variable away, once: what it held is worthless by then.
func (c *Cluster) dropVariable(ctx context.Context, key jobKey) {
	v, err := c.variable(ctx, key)
	if err == nil && v == nil {
		return
	}
	if err == nil {
		_, err = write(ctx, c, "delete variable", key.namespace, func(w *api.WriteOptions) (struct{}, *api.WriteMeta, error) {
			m, err := c.api.Variables().Delete(render.NomadVariable(key.id), w)
			return struct{}{}, m, err
		})
	}
	if err != nil && !notFound(err) {
		c.log.Warn().Err(err).Str("job", key.id).Msg("variable not deleted")
	}
}

// Moved tells all jobs of this installation where the controller is now: their agents read it again and again. A
// controller calls it after its start.
func (c *Cluster) Moved(ctx context.Context) error {
	endpoint, err := c.o.Endpoint()
	if err != nil {
		return fmt.Errorf("tell Nomad's jobs where the controller is: %w", err)
	}
	l, err := c.list(ctx)
	if err != nil {
		return fmt.Errorf("tell Nomad's jobs where the controller is: %w", unknown(err))
	}
	var errs []error
	for key, r := range l.records {
		if r.stopped() {
			continue
		}
		if err := c.moved(ctx, key, string(endpoint)); err != nil {
			errs = append(errs, fmt.Errorf("tell job %s where the controller is: %w", key.id, err))
		}
	}
	return errors.Join(errs...)
}

func (c *Cluster) moved(ctx context.Context, key jobKey, endpoint string) error {
	v, err := c.variable(ctx, key)
	if err != nil {
		return verdict(err)
	}
	if v == nil || v.Items[endpointItem] == endpoint {
		return nil
	}
	v.Items[endpointItem] = endpoint
	_, err = write(ctx, c, "write variable", key.namespace, func(w *api.WriteOptions) (*api.Variable, *api.WriteMeta, error) {
		return c.api.Variables().CheckedUpdate(v, w)
	})
	if err != nil {
		return verdict(err)
	}
	return nil
}
