// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/pipeline"
	"github.com/vmstream/vmstream/plugins"
	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/stream"
)

// target is a place that the command line names, opened.
type target struct {
	name string // without options, which nobody needs to see again
	path string // of the file, if it is one
	sink sinks.Sink
	key  string
}

// place reports if the target names a place for several objects.
func (t *target) place() bool { return t.key == "" || strings.HasSuffix(t.key, "/") }

// parseTarget takes what has no scheme for a path.
func parseTarget(s string) sinks.Target {
	if t, ok := sinks.ParseTarget(s); ok {
		return t
	}
	path := filepath.Clean(s)
	if strings.HasSuffix(s, "/") && path != "/" {
		path += "/"
	}
	return sinks.Target{Scheme: "file", Rest: (&url.URL{Path: path}).EscapedPath()}
}

// shownTarget is a target for messages and events: without options, and without
// what may stand before an @.
func shownTarget(t sinks.Target) string {
	rest, _, _ := strings.Cut(t.Rest, "?")
	if after, ok := strings.CutPrefix(rest, "//"); ok {
		host, path, _ := strings.Cut(after, "/")
		if i := strings.LastIndex(host, "@"); i >= 0 {
			host = host[i+1:]
		}
		rest = "//" + host + "/" + path
	}
	return t.Scheme + ":" + rest
}

// openTarget opens the sink that s names. It has to be closed.
func (a *app) openTarget(ctx context.Context, s string) (*target, error) {
	host, err := a.host()
	if err != nil {
		return nil, err
	}
	t := parseTarget(s)
	opened := &target{name: shownTarget(t), path: filePath(t)}
	opened.sink, opened.key, err = host.Open(ctx, t)
	switch {
	case errors.Is(err, plugins.ErrNoSink):
		return nil, noSink(t.Scheme)
	case errors.Is(err, sinks.ErrTarget):
		return nil, cli.Usage(err)
	case err != nil:
		return nil, err
	}
	opened.sink = sinks.Retry(opened.sink, sinks.Backoff{}, a.console.Log())
	return opened, nil
}

// filePath is the path that a target of a file names, or empty.
func filePath(t sinks.Target) string {
	if t.Scheme != "file" {
		return ""
	}
	rest, _, _ := strings.Cut(t.Rest, "?")
	rest = strings.TrimPrefix(strings.TrimPrefix(rest, "//localhost"), "//")
	path, err := url.PathUnescape(rest)
	if err != nil {
		return ""
	}
	return filepath.Clean(path)
}

// isTarget reports if a name for input is one of a sink, and not that of a file.
func isTarget(s string) bool {
	if _, ok := sinks.ParseTarget(s); !ok {
		return false
	}
	_, err := os.Lstat(s)
	return errors.Is(err, fs.ErrNotExist)
}

// input is stdin, the file that name names, or the object of a sink.
func (a *app) input(ctx context.Context, name string) (io.Reader, func() error, error) {
	if !isTarget(name) {
		return a.streamInput(name)
	}
	t, err := a.openTarget(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	in, err := pipeline.OpenStored(ctx, t.sink, t.key)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%s: %w", t.name, err), t.sink.Close())
	}
	return in, func() error { return errors.Join(in.Close(), t.sink.Close()) }, nil
}

// parent reads what an increment needs of its parent, which is in a file or in a
// sink. Of a stream in a sink only the ends are read.
func (a *app) parent(ctx context.Context, name string) (*stream.Index, error) {
	if !isTarget(name) {
		return pipeline.OpenParent(name)
	}
	in, closeInput, err := a.input(ctx, name)
	if err != nil {
		return nil, err
	}
	defer closeInput() // only read
	stored, ok := in.(*pipeline.StoredInput)
	if !ok {
		return nil, fmt.Errorf("%s: no sink: %w", name, sinks.ErrUnsupported)
	}
	return stored.Parent(shownTarget(parseTarget(name)))
}
