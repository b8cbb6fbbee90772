// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vmstream/vmstream/plugins/internal/sinkv1"
	"github.com/vmstream/vmstream/sinks"
)

const (
	maxKeyBytes = 8 << 10

	// What a description may have.
	maxOptions     = 200
	maxEnvironment = 200
	maxNameBytes   = 128
)

// answer is the error of an answer that cannot be.
func answer(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errAnswer}, args...)...)
}

func capabilitiesMessage(c sinks.Capabilities) *sinkv1.Capabilities {
	return &sinkv1.Capabilities{
		Read: c.Read, Range: c.Range, Stat: c.Stat, List: c.List, Delete: c.Delete, Resume: c.Resume, Orphans: c.Orphans,
		Atomic: c.Atomic, Exclusive: c.Exclusive, Concurrent: c.Concurrent, MaxObjectBytes: c.MaxObjectBytes,
	}
}

func capabilities(m *sinkv1.Capabilities) (sinks.Capabilities, error) {
	if m.GetMaxObjectBytes() < 0 {
		return sinks.Capabilities{}, answer("objects of at most %d bytes", m.GetMaxObjectBytes())
	}
	return sinks.Capabilities{
		Read: m.GetRead(), Range: m.GetRange(), Stat: m.GetStat(), List: m.GetList(), Delete: m.GetDelete(),
		Resume: m.GetResume(), Orphans: m.GetOrphans(), Atomic: m.GetAtomic(), Exclusive: m.GetExclusive(),
		Concurrent: m.GetConcurrent(), MaxObjectBytes: m.GetMaxObjectBytes(),
	}, nil
}

func descriptionMessage(d sinks.Description) *sinkv1.DescribeResponse {
	m := &sinkv1.DescribeResponse{
		Scheme: d.Scheme, Summary: d.Summary, Form: d.Form, Environment: d.Environment,
		Capabilities: capabilitiesMessage(d.Capabilities),
	}
	for _, o := range d.Options {
		m.Options = append(m.Options, &sinkv1.Option{Name: o.Name, Usage: o.Usage, Default: o.Default})
	}
	return m
}

// description takes what a plugin says of itself, which must be for the scheme
// that its file has in its name. It may ask for the variables in granted, and others
// that are its own.
func description(m *sinkv1.DescribeResponse, scheme string, granted []string) (sinks.Description, error) {
	d := sinks.Description{Scheme: scheme, Summary: plain(m.GetSummary()), Form: plain(m.GetForm()), Options: []sinks.Option{}, Environment: []string{}}
	switch {
	case m.GetScheme() != scheme:
		return d, answer("it is for %q, its name says %s", short(m.GetScheme()), scheme)
	case len(m.GetOptions()) > maxOptions:
		return d, answer("%d options", len(m.GetOptions()))
	case len(m.GetEnvironment()) > maxEnvironment:
		return d, answer("%d variables", len(m.GetEnvironment()))
	}
	for _, o := range m.GetOptions() {
		if o.GetName() == "" || len(o.GetName()) > maxNameBytes || plain(o.GetName()) != o.GetName() {
			return d, answer("an option of the name %q", short(o.GetName()))
		}
		d.Options = append(d.Options, sinks.Option{Name: o.GetName(), Usage: plain(o.GetUsage()), Default: plain(o.GetDefault())})
	}
	for _, name := range m.GetEnvironment() {
		if err := mayAsk(scheme, name); err != nil && !slices.Contains(granted, name) {
			return d, err
		}
		d.Environment = append(d.Environment, name)
	}
	var err error
	d.Capabilities, err = capabilities(m.GetCapabilities())
	return d, err
}

func infoMessage(i sinks.Info) *sinkv1.Info {
	return &sinkv1.Info{
		Key: []byte(i.Key), SizeBytes: i.SizeBytes, ModifiedUnixNanos: nanos(i.Modified),
		Version: strings.ToValidUTF8(i.Version, "?"),
	}
}

// info takes what a plugin says of an object.
func info(m *sinkv1.Info) (sinks.Info, error) {
	switch {
	case m == nil:
		return sinks.Info{}, answer("nothing about an object")
	case len(m.GetKey()) > maxKeyBytes:
		return sinks.Info{}, answer("a key of %d bytes", len(m.GetKey()))
	case len(m.GetVersion()) > maxTextBytes:
		return sinks.Info{}, answer("a version of %d bytes", len(m.GetVersion()))
	case m.GetSizeBytes() < -1:
		return sinks.Info{}, answer("an object of %d bytes", m.GetSizeBytes())
	}
	return sinks.Info{
		Key: string(m.GetKey()), SizeBytes: m.GetSizeBytes(), Modified: instant(m.GetModifiedUnixNanos()),
		Version: m.GetVersion(),
	}, nil
}

// infoOf is info of an object that was asked for by its key.
func infoOf(key string, m *sinkv1.Info) (sinks.Info, error) {
	i, err := info(m)
	if err == nil && i.Key != key {
		err = answer("it tells of %q, asked for %q", short(i.Key), short(key))
	}
	return i, err
}

func orphanMessage(o sinks.Orphan) *sinkv1.Orphan {
	return &sinkv1.Orphan{Key: []byte(o.Key), Id: []byte(o.ID), SizeBytes: o.SizeBytes, BegunUnixNanos: nanos(o.Begun)}
}

func orphan(m *sinkv1.Orphan) (sinks.Orphan, error) {
	switch {
	case m == nil:
		return sinks.Orphan{}, answer("nothing about what was left behind")
	case len(m.GetKey()) > maxKeyBytes || len(m.GetId()) > maxKeyBytes:
		return sinks.Orphan{}, answer("a key of %d bytes, an id of %d", len(m.GetKey()), len(m.GetId()))
	case m.GetSizeBytes() < -1:
		return sinks.Orphan{}, answer("%d bytes left behind", m.GetSizeBytes())
	}
	return sinks.Orphan{
		Key: string(m.GetKey()), ID: string(m.GetId()), SizeBytes: m.GetSizeBytes(), Begun: instant(m.GetBegunUnixNanos()),
	}, nil
}

// nanos is a time between processes.
func nanos(t time.Time) int64 {
	if t.IsZero() || t.Year() < 1971 || t.Year() > 2261 { // what 64 bits have
		return 0
	}
	return t.UnixNano()
}

func instant(nanos int64) time.Time {
	if nanos == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanos).UTC()
}

// short is a key for a message.
func short(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}

// checkKey refuses keys that do not fit into messages.
func checkKey(key string) error {
	if len(key) > maxKeyBytes {
		return fmt.Errorf("a key of %d bytes; at most %d get to another process: %w", len(key), maxKeyBytes, sinks.ErrTarget)
	}
	return nil
}
