package object

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
)

// target is where the objects lie.
type target struct {
	dir    string // of file://; empty: S3
	bucket string
	prefix string // with a slash at its end, or empty
	host   string
	plain  bool // http
}

const awsHost = "https://s3.amazonaws.com"

// parseTarget reads s3://BUCKET/PREFIX, whose server is the endpoint, or file:///FOLDER.
func parseTarget(where, endpoint string) (t target, err error) {
	u, err := url.Parse(where)
	if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return t, fmt.Errorf("object store %q: it must be s3://BUCKET/PREFIX or file:///FOLDER, with nothing else in it", redact(where))
	}
	switch u.Scheme {
	case "file":
		if u.Host != "" || !filepath.IsAbs(u.Path) || endpoint != "" {
			return t, fmt.Errorf("object store %q: file:// needs the whole path of a folder, and no endpoint", where)
		}
		return target{dir: filepath.Clean(u.Path)}, nil
	case "s3":
		t.bucket, t.prefix = u.Host, strings.Trim(u.Path, "/")
		if t.prefix != "" {
			t.prefix += "/"
		}
		if t.bucket == "" {
			return t, fmt.Errorf("object store %q: no bucket is named; write s3://BUCKET/PREFIX", where)
		}
		return t, t.parseEndpoint(endpoint)
	}
	return t, fmt.Errorf("object store %q: only s3:// and file:// are known", where)
}

func (t *target) parseEndpoint(endpoint string) error {
	if endpoint == "" {
		endpoint = awsHost
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return errors.New("object store: the endpoint is no URL; write https://HOST:PORT")
	}
	if (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return fmt.Errorf("object store: the endpoint %q must be https://HOST:PORT or http://HOST:PORT", redact(endpoint))
	}
	t.host, t.plain = u.Host, u.Scheme == "http"
	return nil
}

// redact takes out what may be a password.
func redact(s string) string {
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		return "…" + s[i:]
	}
	if i := strings.IndexByte(s, '?'); i >= 0 {
		return s[:i] + "?…"
	}
	return s
}
