// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"log/slog"
	"slices"
	"strings"
)

// Log returns a logger for what works for a command, such as a sink. Warnings and
// errors of it are always told, all else only with -v. They are no warnings of the
// run: what came of them is for whoever called it to say.
func (c *Console) Log() *slog.Logger { return slog.New(&logHandler{c: c}) }

// logHandler writes records to a console.
type logHandler struct {
	c      *Console
	prefix string // of the names of attributes, from groups
	attrs  []slog.Attr
}

// Enabled reports if a record of a level is told.
func (h *logHandler) Enabled(_ context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn || h.c.Verbose && l >= slog.LevelDebug
}

// Handle tells a record.
func (h *logHandler) Handle(_ context.Context, r slog.Record) error {
	all := slices.Clone(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		all = append(all, h.named(a))
		return true
	})
	level := strings.ToLower(r.Level.String())
	from, fields, text := "", map[string]string{}, r.Message
	for _, a := range all {
		v := a.Value.Resolve().String()
		if a.Key == "sink" {
			from = v
			continue
		}
		fields[a.Key] = v
		text += " " + a.Key + "=" + v
	}
	h.c.log(level, from, text, r.Message, fields)
	return nil
}

func (c *Console) log(level, from, text, message string, fields map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.JSON {
		e := Event{"level": level, "message": message}
		if from != "" {
			e["sink"] = from
		}
		if len(fields) > 0 {
			e["fields"] = fields
		}
		c.emit("log", e)
		return
	}
	who := "vmstream: "
	if from != "" {
		who = "vmstream: sink " + from + ": "
	}
	c.print(who + text)
}

func (h *logHandler) named(a slog.Attr) slog.Attr {
	a.Key = h.prefix + a.Key
	return a
}

// WithAttrs returns a handler that adds attributes.
func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.attrs = slices.Clone(h.attrs)
	for _, a := range attrs {
		with.attrs = append(with.attrs, h.named(a))
	}
	return &with
}

// WithGroup returns a handler that puts a name before those of attributes.
func (h *logHandler) WithGroup(name string) slog.Handler {
	with := *h
	if name != "" {
		with.prefix += name + "."
	}
	return &with
}
