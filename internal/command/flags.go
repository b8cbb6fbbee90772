// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/stream/codec"
	"github.com/vmstream/vmstream/vmdk"
)

// resources are the flags that bound what a run takes.
type resources struct {
	workers int
	memory  cli.Size
}

func (r *resources) add(c *cobra.Command) {
	r.memory = stream.DefaultMemoryBytes
	c.Flags().IntVar(&r.workers, "workers", 0, "segments worked on at a time (0: one for each processor)")
	c.Flags().Var(&r.memory, "memory", "bound of the buffers")
}

func (r *resources) validate() error {
	if r.workers < 0 || r.workers > 1024 {
		return cli.Usage(fmt.Errorf("--workers %d: from 0 to 1024", r.workers))
	}
	if r.memory <= 0 {
		return cli.Usage(errors.New("--memory must be more than 0"))
	}
	return nil
}

// codecFlags choose how a stream is compressed.
type codecFlags struct{ spec codec.Spec }

func (f *codecFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.spec.Name, "codec", codec.None, "compression: "+strings.Join(codec.Names(), ", "))
	c.Flags().IntVar(&f.spec.Level, "level", 0, "level of the codec (0: its default)")
	complete(c, "codec", codec.Names())
}

func (f *codecFlags) validate() error {
	if err := f.spec.Validate(); err != nil {
		return cli.Usage(err)
	}
	return nil
}

// sourceFormat is the flag that says what a named file is.
func addSourceFormat(c *cobra.Command, v *string) {
	c.Flags().StringVar(v, "source-format", "", "take the named file as raw or vmdk instead of looking at it")
	complete(c, "source-format", []string{string(vmdk.SourceRaw), string(vmdk.SourceVMDK)})
}

func checkSourceFormat(v string) error {
	switch vmdk.SourceFormat(v) {
	case vmdk.SourceAuto, vmdk.SourceRaw, vmdk.SourceVMDK:
		return nil
	}
	return cli.Usage(fmt.Errorf("--source-format %q: raw or vmdk", v))
}

func complete(c *cobra.Command, flag string, values []string) {
	// The flag exists: it has just been added.
	_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// streamOutput is stdout for a stream. A terminal is refused.
func (a *app) streamOutput() (io.Writer, error) {
	if cli.IsTerminal(a.Out) {
		return nil, &cli.Error{Code: cli.ExitUsage, Err: errors.New("stdout is a terminal: a stream is not for reading"), Hint: "redirect it to a file or pipe it into another program"}
	}
	growPipe(a.Out)
	return a.Out, nil
}

// streamInput is stdin, or the file that --from names.
func (a *app) streamInput(from string) (io.Reader, func() error, error) {
	if from != "" && from != "-" {
		f, err := os.Open(from)
		if err != nil {
			return nil, nil, err
		}
		return f, f.Close, nil
	}
	if cli.IsTerminal(a.In) {
		return nil, nil, &cli.Error{Code: cli.ExitUsage, Err: errors.New("stdin is a terminal: it has to be a stream"), Hint: "use < file or a pipe, or --from FILE"}
	}
	growPipe(a.In)
	return a.In, func() error { return nil }, nil
}

// streamInputs is stdin, or the files and targets that --from names.
func (a *app) streamInputs(ctx context.Context, from []string) ([]io.Reader, func(), error) {
	if len(from) == 0 {
		from = []string{""}
	}
	var ins []io.Reader
	var closers []func() error
	closeAll := func() {
		for _, c := range closers {
			_ = c() // only read
		}
	}
	stdin := 0
	for _, name := range from {
		if name == "" || name == "-" {
			if stdin++; stdin > 1 {
				closeAll()
				return nil, nil, cli.Usage(errors.New("stdin can be only one of the streams"))
			}
		}
		in, closeInput, err := a.input(ctx, name)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		ins, closers = append(ins, in), append(closers, closeInput)
	}
	return ins, closeAll, nil
}

// sameFile reports if two open files are one, so that a run does not read what
// it writes.
func sameFile(a, b any) bool {
	fa, ok := a.(*os.File)
	fb, ok2 := b.(*os.File)
	if !ok || !ok2 {
		return false
	}
	sa, err := fa.Stat()
	sb, err2 := fb.Stat()
	return err == nil && err2 == nil && sa.Mode().IsRegular() && os.SameFile(sa, sb)
}
