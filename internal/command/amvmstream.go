// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/integrate"
	"github.com/vmstream/vmstream/internal/pipeline"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
)

const (
	amvmstreamName = "amvmstream"

	// amandaStateDir is one that Amanda's user, as whom applications run, may
	// write to.
	amandaStateDir = "/var/lib/amanda/vmstream"
)

// amandaSupport is what support answers.
const amandaSupport = `CONFIG YES
HOST YES
DISK YES
MAX-LEVEL 9
INDEX-LINE YES
INDEX-XML NO
MESSAGE-LINE YES
MESSAGE-XML NO
RECORD YES
COLLECTION NO
MULTI-ESTIMATE NO
CALCSIZE NO
CLIENT-ESTIMATE YES
`

func newAmvmstream(a *app) *cobra.Command {
	return &cobra.Command{
		Use: amvmstreamName + " COMMAND [OPTION...]", Short: "Application of Amanda", Hidden: true,
		Long: `Amvmstream is the Application for Amanda; a link called amvmstream in its directory of
applications is the same. Amanda calls it with a command and options of its own. docs/amanda.md
describes it.`,
		DisableFlagParsing: true,
		RunE: func(c *cobra.Command, args []string) error {
			call, err := integrate.ParseAmanda(args)
			if err != nil {
				return cli.Usage(err)
			}
			if call.StateDir == "" {
				call.StateDir = amandaStateDir
			}
			return (&amanda{app: a, call: call}).run(c.Context())
		},
	}
}

// amanda is one call of the application.
type amanda struct {
	*app
	call *integrate.AmandaCall
}

func (m *amanda) run(ctx context.Context) error {
	commands := map[string]func(context.Context) error{
		"support":   func(context.Context) error { return m.print(amandaSupport) },
		"selfcheck": m.selfcheck, "estimate": m.estimate, "backup": m.backup,
		"index": m.index, "validate": m.validate, "restore": m.restore,
	}
	do, ok := commands[m.call.Command]
	if !ok {
		return cli.Usage(fmt.Errorf("%q is no command of an application", m.call.Command))
	}
	return do(ctx)
}

func (m *amanda) print(format string, args ...any) error {
	_, err := fmt.Fprintf(m.Out, format, args...)
	return err
}

// selfcheck prints a line for everything that was looked at. The exit code is
// 0: amcheck reads the lines.
func (m *amanda) selfcheck(ctx context.Context) error {
	if err := m.print("OK vmstream %s\n", Version()); err != nil {
		return err
	}
	for _, name := range m.call.Unknown {
		if err := m.print("ERROR [property %s: not one of vm, option, state-dir, format]\n", cli.Clean(name)); err != nil {
			return err
		}
	}
	for _, check := range []func(context.Context) (string, error){m.checkSource, m.checkState} {
		good, err := check(ctx)
		if err != nil {
			err = m.print("ERROR [%s]\n", cli.Clean(strings.ReplaceAll(err.Error(), "\n", "; ")))
		} else {
			err = m.print("OK %s\n", cli.Clean(good))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *amanda) checkSource(ctx context.Context) (string, error) {
	src, err := m.open(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s is the VM %s with %d disks", m.call.Source(), src.Name, len(src.Disks)), src.Close()
}

// open opens the source as it is, to look at it.
func (m *amanda) open(ctx context.Context) (*pipeline.Source, error) {
	return pipeline.OpenSource(ctx, m.call.Source(), pipeline.SourceOptions{AllowInUse: true, AllowOutside: true, PadShort: true})
}

func (m *amanda) checkState(context.Context) (string, error) {
	if err := os.MkdirAll(m.call.StateDir, 0o700); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(m.call.StateDir, "check-*")
	if err != nil {
		return "", err
	}
	return m.call.StateDir + " can be written to", errors.Join(f.Close(), os.Remove(f.Name()))
}

// estimate prints the level and its size in KiB.
func (m *amanda) estimate(ctx context.Context) error {
	n, err := m.estimateBytes(ctx)
	if err != nil {
		if perr := m.print("%d -1 -1\n", m.call.Level); perr != nil {
			return perr
		}
		return cli.Source(err)
	}
	return m.print("%d %d 1\n", m.call.Level, kib(n))
}

func kib(n int64) int64 { return (n + 1023) / 1024 }

// estimateBytes returns what the stream takes at most without a codec, but for
// headers: what is allocated, and of an increment what links and bitmaps say.
func (m *amanda) estimateBytes(ctx context.Context) (int64, error) {
	src, err := m.open(ctx)
	if err != nil {
		return 0, err
	}
	defer src.Close() // only read
	levels, err := integrate.OpenAmandaLevels(m.call)
	if err != nil {
		return 0, err
	}
	if path := levels.Parent(m.call.Level); path != "" {
		parent, err := pipeline.OpenParent(path)
		if err == nil {
			// If this fails the backup will be a full one, as is estimated then.
			_ = src.Since(parent, pipeline.SinceOptions{TrackBytes: pipeline.TrackParent})
		}
	}
	return src.StoredBytes()
}

// backup writes the stream to stdout, messages to descriptor 3 and the index to
// descriptor 4.
func (m *amanda) backup(ctx context.Context) error {
	levels, err := integrate.OpenAmandaLevels(m.call)
	if err != nil {
		return err
	}
	next, err := levels.Begin()
	if err != nil {
		return err
	}
	defer levels.Forget() // nothing is left to forget when it has been recorded
	out, err := m.streamOutput()
	if err != nil {
		return err
	}
	messages, index := inherited(3, m.Err), inherited(4, io.Discard)
	say := &amandaMessages{w: messages}
	b := &increments{
		args: append([]string{"--index-out", next, "--state-dir", m.call.StateDir}, append(m.call.Options, m.call.Source())...),
		out:  out, err: say, since: levels.Parent(m.call.Level),
		told: func(s string) { fmt.Fprintln(say, s) },
	}
	if m.call.Level > 0 && b.since == "" {
		b.told("no dump of a lower level is recorded here: this is a full backup")
	}
	if code := b.run(ctx, m.app); code != cli.ExitDone && code != cli.ExitWarnings {
		fmt.Fprintf(messages, "sendbackup: error [%s]\n", say.reason(code))
		return told(code)
	}
	ix, err := pipeline.OpenParent(next)
	if err != nil {
		return err
	}
	for _, line := range integrate.AmandaIndex(ix.Opening) {
		if _, err := fmt.Fprintln(index, line); err != nil {
			return fmt.Errorf("writing the index: %w", err)
		}
	}
	fmt.Fprintf(messages, "sendbackup: size %d\n", kib(b.written))
	if m.call.Record {
		return levels.Record(m.call.Level)
	}
	return nil
}

// amandaMessages makes lines of the console messages of Amanda: warnings are
// strange, everything else is normal.
type amandaMessages struct {
	w    io.Writer
	rest []byte
	last string // error or line
}

func (s *amandaMessages) Write(p []byte) (int, error) {
	s.rest = append(s.rest, p...)
	for {
		line, rest, ok := bytes.Cut(s.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		s.rest = rest
		kind := "|"
		if bytes.HasPrefix(line, []byte("vmstream: warning: ")) {
			kind = "?"
		} else if !bytes.HasPrefix(line, []byte("hint: ")) {
			s.last = string(line)
		}
		// Whoever reads messages may have gone; the stream counts.
		fmt.Fprintf(s.w, "%s %s\n", kind, line)
	}
}

// reason says why a backup has failed.
func (s *amandaMessages) reason(code int) string {
	return fmt.Sprintf("%s (exit code %d)", strings.TrimPrefix(s.last, "vmstream: "), code)
}

// index prints the paths of a stream on stdin.
func (m *amanda) index(ctx context.Context) error {
	o, err := m.read(ctx)
	if err != nil {
		return err
	}
	for _, line := range integrate.AmandaIndex(o) {
		if err := m.print("%s\n", line); err != nil {
			return err
		}
	}
	return nil
}

// validate checks a stream on stdin. Amanda takes anything on stderr for an
// error, so nothing is said about one that is whole.
func (m *amanda) validate(ctx context.Context) error {
	_, err := m.read(ctx)
	return err
}

// read reads a stream from stdin to its end, whatever is in it.
func (m *amanda) read(ctx context.Context) (*stream.Opening, error) {
	res, err := pipeline.ReadStream(ctx, m.In, nil, stream.ReadOptions{})
	if err != nil {
		if ctx.Err() == nil {
			_, _ = io.Copy(io.Discard, m.In) // an error of it is not the one that counts
		}
		return nil, cli.Stream(err)
	}
	return res.Opening, nil
}

// restore restores the stream of one level. Amanda calls it once for each, lowest
// first, and takes anything on stderr for an error.
func (m *amanda) restore(ctx context.Context) error {
	dir := m.call.Target
	if dir == "" {
		dir = "."
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	format := pipeline.FormatSame
	if m.call.Format != "" {
		format = vmdk.Format(m.call.Format)
	}
	quiet := &app{Streams: m.Streams, console: cli.NewConsole(m.Out)}
	err = runNextRestore(ctx, quiet, pipeline.RestoreOptions{Dir: dir, Format: format, Follows: m.call.Level > 0})
	if errors.Is(err, cli.ErrWarnings) {
		return nil // they are among what Amanda shows
	}
	return err
}
