package nomad

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/penstock/penstock/scheduler/cluster"
)

// everywhere asks about all namespaces that the token may see.
const everywhere = "*"

// read makes one question and counts it.
func read[T any](ctx context.Context, c *Cluster, call, namespace string, ask func(*api.QueryOptions) (T, *api.QueryMeta, error)) (T, error) {
	began := time.Now()
	v, _, err := ask((&api.QueryOptions{Namespace: namespace}).WithContext(ctx))
	c.metrics.called(call, began, err)
	return v, err
}

// write makes one change and counts it.
func write[T any](ctx context.Context, c *Cluster, call, namespace string, do func(*api.WriteOptions) (T, *api.WriteMeta, error)) (T, error) {
	began := time.Now()
	v, _, err := do((&api.WriteOptions{Namespace: namespace}).WithContext(ctx))
	c.metrics.called(call, began, err)
	return v, err
}

// status is the HTTP status of an answer that is an error; 0 = there was no answer.
func status(err error) int {
	var e api.UnexpectedResponseError
	if errors.As(err, &e) && e.HasStatusCode() {
		return e.StatusCode()
	}
	return 0
}

func notFound(err error) bool {
	return status(err) == http.StatusNotFound || errors.Is(err, api.ErrVariablePathNotFound)
}

// words are what Nomad said, without the client's own.
func words(err error) string {
	var e api.UnexpectedResponseError
	if errors.As(err, &e) && e.HasBody() {
		return cut(strings.TrimSpace(e.Body()))
	}
	return cut(err.Error())
}

const longestWords = 500

func cut(s string) string {
	if len(s) > longestWords {
		return s[:longestWords] + "…"
	}
	return s
}

// conflict: somebody has changed the job since it was read. Nomad says so with 500 and a text.
func conflict(err error) bool {
	if errors.Is(err, errMoved) {
		return true
	}
	return status(err) >= 400 && strings.Contains(words(err), "Enforcing job modify index")
}

// busy: a deployment of Nomad's is under way, during which it takes no scale.
func busy(err error) bool {
	return status(err) == http.StatusBadRequest && strings.Contains(words(err), "active deployment")
}

// outOfBounds: the count is beyond the group's scaling policy.
func outOfBounds(err error) bool {
	return status(err) == http.StatusBadRequest && strings.Contains(words(err), "scaling policy")
}

// lostWords stand in answers of a server that could not ask its leader: whether it has done anything is not known.
var lostWords = []string{"No cluster leader", "no cluster leader", "rpc error: EOF", "connection refused", "i/o timeout", "leadership lost", "leader is not ready", "Timeout exceeded"}

// verdict tells what a failed call means: refused in Nomad's words, or unknown.
func verdict(err error) error {
	code := status(err)
	if code == 0 || code == http.StatusTooManyRequests || code == http.StatusBadGateway || code == http.StatusServiceUnavailable || code == http.StatusGatewayTimeout {
		return unknown(err)
	}
	text := words(err)
	for _, w := range lostWords {
		if strings.Contains(text, w) {
			return unknown(err)
		}
	}
	switch code {
	case http.StatusForbidden, http.StatusUnauthorized:
		return fmt.Errorf("%w: %s; the token needs the policy in nomad/policy/penstock.hcl", cluster.ErrRefused, text)
	case http.StatusInternalServerError:
		if strings.Contains(text, "Permission denied") {
			return fmt.Errorf("%w: %s; the token needs the policy in nomad/policy/penstock.hcl", cluster.ErrRefused, text)
		}
	}
	return fmt.Errorf("%w: Nomad says: %s", cluster.ErrRefused, text)
}

// unknown says that the cluster cannot tell.
func unknown(err error) error { return fmt.Errorf("%w: %w", cluster.ErrUnknown, err) }

// refused says that nothing was done.
func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %w", cluster.ErrRefused, fmt.Errorf(format, args...))
}
