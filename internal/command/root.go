// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package command is the command line: flags become options, results become
// text or JSON. The tree it builds is also what man pages and completions are
// made from.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/vmstream/vmstream/internal/cli"
)

// Streams are the standard streams of a run.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer

	// Program is the path of the program that calls [ServePlugin]. Built-in sinks get
	// processes of it, and other sinks are looked for beside it. Empty: built-in sinks
	// are in this process.
	Program string
}

// app is what the commands of one run share.
type app struct {
	Streams
	console *cli.Console
}

const longRoot = `vmstream streams virtual machines to and from backup software.

A backup is a tar of VMDK extents with a SHA256SUMS: tar, sha256sum and qemu-img
restore it without vmstream. Data goes to stdout and comes from stdin; messages
go to stderr.`

const exitCodes = `Exit codes: 0 done; 1 failed; 2 wrong usage; 3 complete with warnings;
4 the stream is damaged or incomplete; 5 source or snapshot trouble;
6 trouble writing the stream; 7 change tracking cannot be trusted; 8 only ESX can do
it; 130, 143 and 129 stopped by SIGINT, SIGTERM, SIGHUP.`

// New returns the command tree for one run.
func New(s Streams) *cobra.Command {
	root, _ := newRoot(s)
	return root
}

func newRoot(s Streams) (*cobra.Command, *app) {
	a := &app{Streams: s, console: cli.NewConsole(s.Err)}
	root := &cobra.Command{
		Use: "vmstream", Short: "Stream virtual machines to and from backup software",
		Long: longRoot + "\n\n" + exitCodes, SilenceUsage: true, SilenceErrors: true,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
		PersistentPreRunE: func(c *cobra.Command, _ []string) error {
			return fromEnvironment(c.Flags())
		},
	}
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return cli.Usage(err) })
	f := root.PersistentFlags()
	f.BoolVar(&a.console.JSON, "json", false, "print one JSON object a line: events on stderr, results on stdout")
	f.BoolVarP(&a.console.Quiet, "quiet", "q", false, "only warnings and errors")
	f.BoolVarP(&a.console.Verbose, "verbose", "v", false, "tell more")
	root.AddCommand(
		newBackup(a), newRestore(a), newMerge(a), newVerify(a), newInspect(a), newList(a), newEstimate(a), newRun(a), newSink(a), newDisk(a), newRedo(a), newSnapshot(a), newVMFS(a), newSCSI(a), newVersion(a),
		newVmsnap(a), newVmres(a), newAddredo(a), newVmkfstools(a),
		newIntegrate(a), newAmvmstream(a),
	)
	root.AddCommand(newBacula(a)...)
	return root, a
}

// fromEnvironment takes the value of a flag that was not given from
// VMSTREAM_NAME, if that is set.
func fromEnvironment(flags *pflag.FlagSet) error {
	var err error
	flags.VisitAll(func(f *pflag.Flag) {
		name := "VMSTREAM_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		v, ok := os.LookupEnv(name)
		if !ok || f.Changed || asksForText(f.Name) || err != nil {
			return
		}
		if serr := flags.Set(f.Name, v); serr != nil {
			err = cli.Usage(fmt.Errorf("%s: %w", name, serr))
		}
	})
	return err
}

// asksForText reports if a flag asks for a text in place of the command's work:
// that is nothing for the environment to say.
func asksForText(flag string) bool { return flag == "help" || flag == "man" || flag == "version" }

// Run runs a command line and returns the exit code. Errors have been told on
// stderr.
func Run(ctx context.Context, args []string, s Streams) int {
	root, a := newRoot(s)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return cli.ExitDone
	}
	if errors.Is(err, cli.ErrWarnings) {
		return cli.ExitWarnings
	}
	if code, ok := isTold(err); ok {
		return code
	}
	code, err := judge(ctx, err)
	var coded *cli.Error
	hint := ""
	if errors.As(err, &coded) {
		hint = coded.Hint
	} else if isUsage(err) {
		code = cli.ExitUsage
	}
	a.console.Fail(err, code, hint)
	return code
}

// judge returns the exit code of a run, and what it has failed of.
func judge(ctx context.Context, err error) (int, error) {
	if cause := context.Cause(ctx); err != nil && ctx.Err() != nil && cause != nil {
		err = cause
	}
	err = asPlugin(err)
	return cli.Code(err), err
}

// isUsage reports if err is one of cobra's own about the command line, which
// have no type.
func isUsage(err error) bool {
	s := err.Error()
	for _, p := range []string{"unknown command", "unknown flag", "accepts ", "requires ", "required flag", "if any flags in the group"} {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// done returns nil, or ErrWarnings if something was warned of.
func (a *app) done() error {
	if a.console.Warnings() > 0 {
		return cli.ErrWarnings
	}
	return nil
}
