// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package ssh has the sink that is a directory on another host, reached by the
// system's ssh. The other end needs a POSIX shell and the usual tools.
package ssh

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"path"
	"slices"
	"strings"

	"github.com/vmstream/vmstream/sinks"
)

// maxListed bounds a listing.
const maxListed = 1 << 20

// Driver returns the driver of ssh targets.
func Driver() sinks.Driver { return driver{} }

type driver struct{}

var capabilities = sinks.Capabilities{
	Read: true, Range: true, Stat: true, List: true, Delete: true, Orphans: true,
	Atomic: true, Exclusive: true, Concurrent: true,
}

func (driver) Describe() sinks.Description {
	return sinks.Description{
		Scheme:       "ssh",
		Summary:      "a directory on another host, by ssh",
		Form:         "ssh://[USER@]HOST[:PORT]/PATH",
		Options:      options,
		Environment:  []string{"PATH", "HOME", "USER", "LOGNAME", "SSH_AUTH_SOCK"},
		Capabilities: capabilities,
	}
}

// Open returns the sink of a target. No connection is made.
func (driver) Open(_ context.Context, t sinks.Target, log *slog.Logger) (sinks.Sink, string, error) {
	s, err := parse(t)
	if err != nil {
		return nil, "", err
	}
	return &sink{settings: s, log: log}, s.key, nil
}

type sink struct {
	settings
	log *slog.Logger
}

func (*sink) Capabilities() sinks.Capabilities { return capabilities }

func (*sink) Close() error { return nil }

// Stat tells of an object.
func (s *sink) Stat(ctx context.Context, key string) (sinks.Info, error) {
	if err := checkKey(key); err != nil {
		return sinks.Info{}, err
	}
	said, err := s.ask(ctx, statScript, key)
	if err != nil {
		return sinks.Info{}, err
	}
	return told(key, said)
}

// Delete removes an object.
func (s *sink) Delete(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	return s.remove(ctx, key)
}

func (s *sink) remove(ctx context.Context, key string) error {
	said, err := s.ask(ctx, deleteScript, key)
	if err != nil || said == "ok" {
		return err
	}
	_, err = told(key, said)
	return err
}

// List tells of all objects below the prefix's directory that have the prefix.
func (s *sink) List(ctx context.Context, prefix string) iter.Seq2[sinks.Info, error] {
	return func(yield func(sinks.Info, error) bool) {
		all, err := s.files(ctx, prefix)
		for _, i := range all {
			if !isPart(i.Key) && !yield(i, nil) {
				return
			}
		}
		if err != nil {
			yield(sinks.Info{}, err)
		}
	}
}

// Orphans tells of files that never got their names.
func (s *sink) Orphans(ctx context.Context, prefix string) iter.Seq2[sinks.Orphan, error] {
	return func(yield func(sinks.Orphan, error) bool) {
		all, err := s.files(ctx, path.Dir(prefix+"x")+"/")
		for _, i := range all {
			key, ok := whole(i.Key)
			if !ok || !strings.HasPrefix(key, prefix) {
				continue
			}
			if !yield(sinks.Orphan{Key: key, ID: i.Key, SizeBytes: i.SizeBytes, Begun: i.Modified}, nil) {
				return
			}
		}
		if err != nil {
			yield(sinks.Orphan{}, err)
		}
	}
}

// RemoveOrphan removes one of them.
func (s *sink) RemoveOrphan(ctx context.Context, o sinks.Orphan) error {
	if key, ok := whole(o.ID); !ok || key != o.Key || checkKey(o.Key) != nil {
		return fmt.Errorf("ssh: %q is no orphan: %w", o.ID, sinks.ErrTarget)
	}
	return s.remove(ctx, o.ID)
}

// part is a name for what will be the object of the key; whole is the way back.
func part(key, random string) string {
	i := strings.LastIndexByte(key, '/') + 1
	return key[:i] + "." + key[i:] + mark + random
}

func whole(part string) (key string, ok bool) {
	if !isPart(part) {
		return "", false
	}
	i := strings.LastIndexByte(part, '/') + 1
	return part[:i] + part[i+1:strings.LastIndex(part, mark)], true
}

// files returns all files with the prefix, in order.
func (s *sink) files(ctx context.Context, prefix string) ([]sinks.Info, error) {
	prefix = strings.TrimPrefix(prefix, "./")
	dir := prefix[:strings.LastIndexByte(prefix, '/')+1]
	if dir != "" {
		if err := checkKey(strings.TrimSuffix(dir, "/")); err != nil {
			return nil, err
		}
	}
	c, err := s.call(ctx, false, listScript, dir)
	if err != nil {
		return nil, err
	}
	defer c.end()
	var all []sinks.Info
	for {
		said, err := c.answer()
		if err != nil {
			return nil, err
		}
		if said == "ok" {
			break
		}
		i, err := s.file(said)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(i.Key, prefix) {
			all = append(all, i)
		}
		if len(all) > maxListed {
			return nil, fmt.Errorf("ssh: more than %d files below %s%s", maxListed, s.root, dir)
		}
	}
	slices.SortFunc(all, func(a, b sinks.Info) int { return strings.Compare(a.Key, b.Key) })
	return all, c.p.Wait(ctx)
}

// file takes a line of a listing apart.
func (s *sink) file(said string) (sinks.Info, error) {
	parts := strings.SplitN(said, " ", 5)
	if len(parts) != 5 || parts[0] != "file" || !strings.HasPrefix(parts[4], s.root) {
		return told("listing", said)
	}
	key := strings.TrimLeft(parts[4][len(s.root):], "/")
	return parseInfo(key, strings.Join(parts[1:4], " "))
}
