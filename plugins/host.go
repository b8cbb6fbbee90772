// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/vmstream/vmstream/sinks"
)

// Options say where sinks come from.
type Options struct {
	// Self is the program that is started as Self [ServeCommand] SCHEME for a
	// built-in scheme, and calls Serve then. Empty: the program that we are.
	Self string
	// Builtin are the drivers of the built-in schemes.
	Builtin []sinks.Driver
	// Dirs are where executables of other sinks are, see Dirs.
	Dirs []string
	// Checksums are what the content of executables must have, by scheme: SHA-256 in
	// hexadecimal. They come before files with checksums.
	Checksums map[string]string
	// Override are built-in schemes for which an executable is taken, if there is
	// one. Otherwise there is no way to get into the place of a built-in sink.
	Override []string
	// Log gets what plugins say; nil: nobody does.
	Log *slog.Logger
	// InProcess has built-in sinks in this process.
	InProcess bool
}

// ServeCommand is what a program is started with that is to serve a built-in sink.
const ServeCommand = "plugin-serve"

// Host opens sinks in processes of their own. It may be used by several goroutines.
type Host struct {
	o     Options
	log   *slog.Logger
	time  timing
	trust truster
	who   func() (*identity, error)
}

// NewHost returns a host. It starts nothing.
func NewHost(o Options) *Host {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Host{o: o, log: log, time: defaultTiming, who: sync.OnceValues(newIdentity)}
}

// Found is a sink that can be opened, or that could be if it were right.
type Found struct {
	sinks.Description
	Path string // of the executable; empty: built in
	Err  error  // why it cannot be used; only the scheme is known then
}

func (h *Host) builtin(scheme string) sinks.Driver {
	for _, d := range h.o.Builtin {
		if d.Describe().Scheme == scheme {
			return d
		}
	}
	return nil
}

// Open starts the process of a sink and opens a target there, see [sinks.Driver];
// Close of the sink ends the process. ctx bounds opening alone. A scheme that no
// sink has gives an error that is [ErrNoSink] and [sinks.ErrTarget]; an
// executable that may not be started gives [ErrUntrustedPlugin].
func (h *Host) Open(ctx context.Context, t sinks.Target) (sinks.Sink, string, error) {
	if !nameForm.MatchString(t.Scheme) {
		return nil, "", fmt.Errorf("no sink can be called %q: %w", short(t.Scheme), sinks.ErrTarget)
	}
	if d := h.builtin(t.Scheme); d != nil {
		if !slices.Contains(h.o.Override, t.Scheme) {
			return h.openBuiltin(ctx, t, d)
		}
		if _, err := find(h.o.Dirs, t.Scheme); errors.Is(err, ErrNoSink) {
			return h.openBuiltin(ctx, t, d)
		}
	}
	path, err := find(h.o.Dirs, t.Scheme)
	if err != nil {
		return nil, "", err
	}
	d, err := h.describe(ctx, candidate{t.Scheme, path})
	if err != nil {
		return nil, "", err
	}
	p, err := h.startExecutable(ctx, candidate{t.Scheme, path}, d.Environment)
	if err != nil {
		return nil, "", err
	}
	return opened(ctx, p, t)
}

func (h *Host) openBuiltin(ctx context.Context, t sinks.Target, d sinks.Driver) (sinks.Sink, string, error) {
	if h.o.InProcess {
		return d.Open(ctx, t, h.log)
	}
	self, err := h.self()
	if err != nil {
		return nil, "", err
	}
	p, err := h.start(ctx, launch{
		name: t.Scheme, path: self, args: []string{ServeCommand, t.Scheme},
		asked: d.Describe().Environment,
	})
	if err != nil {
		return nil, "", err
	}
	return opened(ctx, p, t)
}

// self is the program itself, also when its file has been replaced meanwhile.
func (h *Host) self() (string, error) {
	if h.o.Self != "" {
		return h.o.Self, nil
	}
	const running = "/proc/self/exe"
	if runtime.GOOS == "linux" {
		if _, err := os.Stat(running); err == nil {
			return running, nil
		}
	}
	return os.Executable()
}

func opened(ctx context.Context, p *process, t sinks.Target) (sinks.Sink, string, error) {
	s, key, err := p.open(ctx, t)
	if err != nil {
		p.end(p.time.end)
		return nil, "", err
	}
	return s, key, nil
}

// startExecutable looks at an executable and starts it.
func (h *Host) startExecutable(ctx context.Context, c candidate, asked []string) (*process, error) {
	image, err := h.trust.trust(c.path, h.o.Checksums[c.name])
	if err != nil {
		return nil, fmt.Errorf("sink %s: %w", c.name, err)
	}
	return h.start(ctx, launch{name: c.name, path: image.path, image: image, asked: asked})
}

func (h *Host) start(ctx context.Context, l launch) (*process, error) {
	var err error
	if l.who, err = h.who(); err != nil {
		l.image.close()
		return nil, err
	}
	l.log, l.time = h.log, h.time
	return start(ctx, l)
}

// Describe tells of the sink of a scheme. Its executable is started to describe itself.
func (h *Host) Describe(ctx context.Context, scheme string) (Found, error) {
	if !nameForm.MatchString(scheme) {
		return Found{}, noSink(scheme)
	}
	path, err := "", error(nil)
	d := h.builtin(scheme)
	if d == nil || slices.Contains(h.o.Override, scheme) {
		path, err = find(h.o.Dirs, scheme)
	}
	switch {
	case d != nil && (path == "" || errors.Is(err, ErrNoSink)):
		return Found{Description: d.Describe()}, nil
	case err != nil:
		return Found{}, err
	}
	description, err := h.describe(ctx, candidate{scheme, path})
	return Found{Description: description, Path: path}, err
}

// describe starts an executable with next to no environment and asks what it is.
func (h *Host) describe(ctx context.Context, c candidate) (sinks.Description, error) {
	p, err := h.startExecutable(ctx, c, nil)
	if err != nil {
		return sinks.Description{}, err
	}
	defer p.end(p.time.end)
	var granted []string // what the built-in sink sees, one that takes its place may
	if d := h.builtin(c.name); d != nil {
		granted = d.Describe().Environment
	}
	return p.describe(ctx, granted)
}

// listAtOnce is how many executables are asked at a time.
const listAtOnce = 4

// List tells of all sinks, in the order of their schemes. Executables are started to
// describe themselves; one that does not is there with its error.
func (h *Host) List(ctx context.Context) []Found {
	var all []Found
	for _, d := range h.o.Builtin {
		all = append(all, Found{Description: d.Describe()})
	}
	var asked []Found
	for _, c := range findAll(h.o.Dirs) {
		at := slices.IndexFunc(all, func(f Found) bool { return f.Scheme == c.name })
		if at >= 0 && !slices.Contains(h.o.Override, c.name) {
			continue // the built-in one is taken
		}
		if at >= 0 {
			all = slices.Delete(all, at, at+1)
		}
		asked = append(asked, Found{Description: sinks.Description{Scheme: c.name}, Path: c.path})
	}
	var wg sync.WaitGroup
	turns := make(chan struct{}, listAtOnce)
	for i := range asked {
		wg.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			f := &asked[i]
			if d, err := h.describe(ctx, candidate{f.Scheme, f.Path}); err != nil {
				f.Err = err
			} else {
				f.Description = d
			}
		})
	}
	wg.Wait()
	all = append(all, asked...)
	slices.SortFunc(all, func(a, b Found) int { return cmp.Compare(a.Scheme, b.Scheme) })
	return all
}
