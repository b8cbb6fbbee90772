// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin/runner"
)

// This file is the only one that knows the logger of go-plugin.

const (
	maxLogLineBytes = 4 << 10
	maxLogAttrs     = 16

	// What a plugin may say at once, and then every second.
	logBurst     = 200
	logPerSecond = 20

	// logName marks what the plugin says, and not go-plugin of it.
	logName = "said"
)

// levelTrace is below what anybody wants to know who does not look for mistakes here.
const levelTrace = slog.LevelDebug - 4

// newLogger returns a logger for go-plugin whose lines go to log: those of the
// plugin at their level, those of go-plugin itself at levelTrace.
func newLogger(log *slog.Logger, name string) hclog.Logger {
	level := hclog.Error
	for _, l := range []hclog.Level{hclog.Warn, hclog.Info, hclog.Debug} {
		if log.Enabled(context.Background(), slogLevel(l)) {
			level = l
		}
	}
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Output: io.Discard, Level: level})
	l.RegisterSink(&logAdapter{log: log.With("sink", name), budget: logBurst, now: time.Now})
	return l
}

// logAdapter hands lines on, as many as a reader can take in.
type logAdapter struct {
	log *slog.Logger
	now func() time.Time

	mu      sync.Mutex
	budget  float64
	last    time.Time
	dropped int
}

// Accept takes a line. It is called by hclog.
func (a *logAdapter) Accept(name string, level hclog.Level, message string, args ...any) {
	to := slogLevel(level)
	if name != logName {
		to = levelTrace
	}
	if !a.log.Enabled(context.Background(), to) {
		return
	}
	dropped, ok := a.spend()
	if dropped > 0 {
		a.log.Warn("the plugin says too much", "dropped_lines", dropped)
	}
	if ok {
		a.log.LogAttrs(context.Background(), to, shortened(message), attrs(args)...)
	}
}

// spend reports if a line may be told, and how many before it were not.
func (a *logAdapter) spend() (dropped int, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if !a.last.IsZero() {
		a.budget = min(a.budget+now.Sub(a.last).Seconds()*logPerSecond, logBurst)
	}
	a.last = now
	if a.budget < 1 {
		a.dropped++
		return 0, false
	}
	a.budget--
	dropped, a.dropped = a.dropped, 0
	return dropped, true
}

func slogLevel(l hclog.Level) slog.Level {
	switch {
	case l >= hclog.Error && l != hclog.Off:
		return slog.LevelError
	case l == hclog.Warn:
		return slog.LevelWarn
	case l == hclog.Info:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

func attrs(args []any) []slog.Attr {
	var all []slog.Attr
	for i := 0; i+1 < len(args) && len(all) < maxLogAttrs; i += 2 {
		name := shortened(fmt.Sprint(args[i]))
		if name == "timestamp" { // go-plugin's, of the line
			continue
		}
		all = append(all, slog.String(name, shortened(fmt.Sprint(args[i+1]))))
	}
	slices.SortFunc(all, func(a, b slog.Attr) int { return cmp.Compare(a.Key, b.Key) }) // go-plugin shuffles them
	return all
}

func shortened(s string) string {
	if len(s) > maxLogLineBytes {
		s = s[:maxLogLineBytes] + "…"
	}
	return plain(s)
}

// starter is what go-plugin calls to start a process with the environment that it
// needs, and a directory for its socket.
func starter(start func(environment []string, dir string) runner.Runner) func(hclog.Logger, *exec.Cmd, string) (runner.Runner, error) {
	return func(_ hclog.Logger, c *exec.Cmd, dir string) (runner.Runner, error) { return start(c.Env, dir), nil }
}

// quiet keeps go-plugin's own words from a plugin's stderr.
func quiet() hclog.Logger { return hclog.NewNullLogger() }

// serveLog returns a logger whose lines the host understands. Stderr is taken as it
// is now: go-plugin replaces os.Stderr.
func serveLog() *slog.Logger {
	return slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) > 0 {
				return a
			}
			switch a.Key {
			case slog.MessageKey:
				a.Key = "@message"
			case slog.TimeKey:
				a = slog.String("@timestamp", a.Value.Time().Format(hclog.TimeFormatJSON))
			case slog.LevelKey:
				a = slog.String("@level", strings.ToLower(a.Value.String()))
			}
			return a
		},
	}))
}
