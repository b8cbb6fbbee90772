// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package remote sends a directory of files to another host and fetches one,
// through the user's ssh: keys, configuration and known hosts are those that ssh
// uses anyway.
package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"
	"unicode"
)

// killDelay is how long ssh has to end after it was told to.
const killDelay = 2 * time.Second

// CheckHost refuses what is no host, and what ssh would take for an option.
func CheckHost(host string) error {
	bad := func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsGraphic(r) }
	if host == "" || strings.HasPrefix(host, "-") || strings.ContainsFunc(host, bad) {
		return fmt.Errorf("%q is no host: write it like user@host", host)
	}
	return nil
}

// CheckDir refuses what is no directory that can be made anew.
func CheckDir(dir string) error {
	base := strings.Trim(dir, "/")
	if i := strings.LastIndexByte(base, '/'); i >= 0 {
		base = base[i+1:]
	}
	switch {
	case base == "" || base == "." || base == "..":
		return fmt.Errorf("%q: name a directory that can be made", dir)
	case strings.ContainsFunc(dir, func(r rune) bool { return !unicode.IsGraphic(r) }):
		return fmt.Errorf("%q: control characters in the name of a directory", dir)
	}
	return nil
}

// quote makes s one word for a POSIX shell, whatever is in it.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// command returns ssh that runs script, of one line, in a POSIX shell on host,
// whatever the login shell there is.
func command(ctx context.Context, host, script string) (*exec.Cmd, *tail) {
	c := exec.CommandContext(ctx, "ssh", host, "exec /bin/sh -c "+quote(script))
	t := &tail{}
	c.Stderr = t
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = killDelay
	return c, t
}

// failed says how ssh ended, in its own words.
func failed(ctx context.Context, host string, err error, t *tail) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("ssh %s: %w", host, err)
	}
	return fmt.Errorf("ssh %s: %w%s", host, err, t)
}

// tail keeps the last of what a program says.
type tail struct{ b bytes.Buffer }

const tailBytes = 2048

func (t *tail) Write(p []byte) (int, error) {
	t.b.Write(p)
	if over := t.b.Len() - tailBytes; over > 0 {
		t.b.Next(over)
	}
	return len(p), nil
}

func (t *tail) String() string {
	s := strings.Join(strings.FieldsFunc(t.b.String(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	if s == "" {
		return ""
	}
	return ": " + strings.ToValidUTF8(s, "?")
}

// closeOnDone closes c when the context ends, so that who writes to or reads
// from it does not wait for ever. The returned function undoes that.
func closeOnDone(ctx context.Context, c io.Closer) func() bool {
	return context.AfterFunc(ctx, func() { _ = c.Close() }) // the context's error is the one that counts
}
