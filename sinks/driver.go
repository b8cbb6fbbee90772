// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package sinks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"

	"github.com/vmstream/vmstream/internal/form"
)

// Driver opens the sinks of a scheme.
type Driver interface {
	Describe() Description
	// Open returns the sink that a target is in, and the key that the target has
	// there: of an object, or empty or ending with a slash where the target names
	// a place for several. Nothing is stored or removed. Secrets come from the
	// environment and from files, never from the target.
	Open(ctx context.Context, t Target, log *slog.Logger) (Sink, string, error)
}

// Description is what a driver says of itself.
type Description struct {
	Scheme  string   `json:"scheme"` // lower-case letters and digits
	Summary string   `json:"summary"`
	Form    string   `json:"form"` // of its targets, such as s3://BUCKET/KEY
	Options []Option `json:"options"`
	// Environment has the variables that the driver needs to see, a name that ends
	// with * being a prefix. Nothing else of the environment reaches it.
	Environment  []string     `json:"environment"`
	Capabilities Capabilities `json:"capabilities"` // at best; a target may have less
}

// Option is an option in a target, behind the question mark.
type Option struct {
	Name    string `json:"name"`
	Usage   string `json:"usage"`
	Default string `json:"default,omitempty"`
}

// Target names an object, or a place for objects: scheme:rest.
type Target struct {
	Scheme string
	Rest   string // what is behind the colon
}

var schemeForm = form.New(`^[a-z][a-z0-9]+$`, 32)

// ParseTarget takes a target apart. ok is false if s has no scheme of two
// characters or more: it is a path then.
func ParseTarget(s string) (t Target, ok bool) {
	scheme, rest, found := strings.Cut(s, ":")
	if !found || !schemeForm.MatchString(scheme) {
		return Target{}, false
	}
	return Target{Scheme: scheme, Rest: rest}, true
}

// String returns the target as it was written.
func (t Target) String() string { return t.Scheme + ":" + t.Rest }

// URL takes the target apart as one of the form scheme://host/path?options.
// Options that known does not have, options given twice, a user with a password,
// and a fragment give ErrTarget. Host and path are unescaped.
func (t Target) URL(known []Option) (host, path string, options map[string]string, err error) {
	u, err := url.Parse(t.String())
	switch {
	case err != nil:
		var e *url.Error
		if errors.As(err, &e) {
			err = e.Err // without the target, which may have a secret in it
		}
		return "", "", nil, fmt.Errorf("%s target: %w: %w", t.Scheme, err, ErrTarget)
	case u.Opaque != "":
		return "", "", nil, fmt.Errorf("%s target: write %s://: %w", t.Scheme, t.Scheme, ErrTarget)
	case u.Fragment != "" || strings.HasSuffix(t.Rest, "#"):
		return "", "", nil, fmt.Errorf("%s target: write %%23 for #: %w", t.Scheme, ErrTarget)
	}
	if u.User != nil {
		if _, ok := u.User.Password(); ok {
			return "", "", nil, fmt.Errorf("%s target: a password is visible to everybody there: %w", t.Scheme, ErrTarget)
		}
		host = u.User.Username() + "@"
	}
	options, err = ParseOptions(t.Scheme, u.RawQuery, known)
	return host + u.Host, u.Path, options, err
}

// ParseOptions takes apart name=value&name=value, escaped as in a URL.
func ParseOptions(scheme, query string, known []Option) (map[string]string, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, fmt.Errorf("%s target: options: %w: %w", scheme, err, ErrTarget)
	}
	options := map[string]string{}
	for name, all := range values {
		switch {
		case !slices.ContainsFunc(known, func(o Option) bool { return o.Name == name }):
			return nil, fmt.Errorf("%s target: unknown option %q: %w; see vmstream sink describe %s", scheme, name, ErrTarget, scheme)
		case len(all) > 1:
			return nil, fmt.Errorf("%s target: option %s is there %d times: %w", scheme, name, len(all), ErrTarget)
		}
		options[name] = all[0]
	}
	return options, nil
}
