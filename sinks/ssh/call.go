// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package ssh

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/internal/child"
)

// noiseLines and lineBytes bound what a login may print before our own lines.
const (
	noiseLines = 1000
	lineBytes  = 8 << 10
)

// call is one run of a script on the other end.
type call struct {
	p    *child.Process
	r    *bufio.Reader
	word string
	stop func() bool
	ctx  context.Context //nolint:containedctx // it bounds the call
}

func (s *sink) call(ctx context.Context, stdin bool, script, key string, args ...string) (*call, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	word := "vmstream-" + rand.Text()
	argv := append([]string{"ssh"}, s.argv...)
	argv = append(argv, remoteCommand(script, append([]string{word, s.root, key}, args...)...))
	p, err := child.Start(child.Command{Argv: argv, Stdin: stdin, Stdout: true, Log: s.log, Name: "ssh"})
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.Stdout.SetReadDeadline(time.Unix(1, 0)) })
	return &call{p: p, r: bufio.NewReaderSize(p.Stdout, lineBytes), word: word, stop: stop, ctx: ctx}, nil
}

// answer returns what is behind the word in the next line that begins with it.
func (c *call) answer() (string, error) {
	for range noiseLines {
		line, err := c.r.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil:
			return "", c.failed(err)
		}
		if said, ok := strings.CutPrefix(strings.TrimSuffix(string(line), "\n"), c.word+" "); ok {
			return said, nil
		}
	}
	return "", errors.New("ssh: the login prints too much")
}

// failed is the error of a call whose answer could not be read.
func (c *call) failed(err error) error {
	if c.ctx.Err() != nil {
		return fmt.Errorf("ssh: %w", context.Cause(c.ctx))
	}
	if !errors.Is(err, io.EOF) {
		return fmt.Errorf("ssh: %w", err)
	}
	switch werr := c.p.Wait(c.ctx); {
	case c.p.Status() == 255: // of ssh itself
		return fmt.Errorf("%w: %w", werr, sinks.ErrTransient)
	case werr != nil:
		return werr
	}
	return fmt.Errorf("ssh: the other end has not answered: %w", io.ErrUnexpectedEOF)
}

// end kills what may be left of the call.
func (c *call) end() {
	c.stop()
	c.p.Kill()
	if c.p.Stdin != nil {
		_ = c.p.Stdin.Close()
	}
	_ = c.p.Stdout.Close()
}

// ask runs a script that answers with one line, and returns it.
func (s *sink) ask(ctx context.Context, script, key string, args ...string) (string, error) {
	c, err := s.call(ctx, false, script, key, args...)
	if err != nil {
		return "", err
	}
	defer c.end()
	said, err := c.answer()
	if err != nil {
		return "", err
	}
	return said, c.p.Wait(ctx)
}

// told makes an Info of an answer, or the error that it stands for.
func told(key, said string) (sinks.Info, error) {
	what, rest, _ := strings.Cut(said, " ")
	switch what {
	case "ok", "got":
		return parseInfo(key, rest)
	case "none":
		return sinks.Info{}, fmt.Errorf("ssh: %s: %w", key, sinks.ErrNotExist)
	case "exists":
		return sinks.Info{}, fmt.Errorf("ssh: %s: %w", key, sinks.ErrExists)
	case "short":
		return sinks.Info{}, fmt.Errorf("ssh: %s: the other end has %s: %w", key, child.Clean(rest), sinks.ErrShort)
	}
	return sinks.Info{}, fmt.Errorf("ssh: %s: the other end says %q", key, child.Clean(said))
}

// parseInfo reads size, time and inode.
func parseInfo(key, s string) (sinks.Info, error) {
	parts := strings.Split(s, " ")
	if len(parts) != 3 {
		return sinks.Info{}, fmt.Errorf("ssh: %s: the other end says %q of it", key, child.Clean(s))
	}
	var n [3]int64
	for i, p := range parts {
		v, err := strconv.ParseInt(p, 10, 64)
		if err != nil || v < 0 {
			return sinks.Info{}, fmt.Errorf("ssh: %s: the other end says %q of it", key, child.Clean(s))
		}
		n[i] = v
	}
	return sinks.Info{Key: key, SizeBytes: n[0], Modified: time.Unix(n[1], 0), Version: strings.Join(parts, "-")}, nil
}
