// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/sinks"
)

const longRun = `Run makes a backup as vmstream backup does and gives the stream to a program on its
stdin. Both must succeed. If the backup fails, the program is ended before it sees the
end of its input: SIGTERM, and SIGKILL 10 seconds later. If the program fails, or ends
before it has the whole stream, the backup fails with exit code 6.

  vmstream run --id "$JOB" web01.vmx -- restic backup --stdin --stdin-filename web01.tar

Many programs keep what a pipe gave them until it broke. --on-failure runs a shell
command that can remove that; it has the environment of the hooks, as the program
has. What the program says on its stdout and stderr goes to ours.`

func newRun(a *app) *cobra.Command {
	o := &backupOptions{}
	c := &cobra.Command{
		Use: "run [flags] [VM|DISK] -- COMMAND [ARG...]", Short: "Back up into a program",
		Long: longRun + "\n\n" + exitCodes,
		RunE: func(c *cobra.Command, args []string) error {
			n := c.ArgsLenAtDash()
			if n < 0 || n == len(args) || args[n] == "" {
				return cli.Usage(errors.New("say which program gets the stream: -- COMMAND [ARG...]"))
			}
			o.store.argv, o.store.program = args[n:], o.program(a)
			return backUp(c, a, o, args[:n])
		},
	}
	o.add(c)
	c.Flags().StringVar(&o.hooks.onFailure, "on-failure", "", "run this shell command if the program was started and the backup fails")
	return c
}

// undo runs --on-failure if the program may have kept something.
func (o *backupOptions) undo(ctx context.Context, a *app, status int) {
	if !o.store.started {
		return
	}
	if err := o.hooks.run(context.WithoutCancel(ctx), a, "on-failure", o.hooks.onFailure, status); err != nil {
		a.console.Warn(err.Error())
	}
}

// program starts the program that gets the stream when the source is open.
func (o *backupOptions) program(a *app) begin {
	return func(ctx context.Context) (sinks.Writer, error) {
		c, err := startChild(ctx, o.store.argv, o.hooks.environment("run", 0), a.Out, a.Err)
		if err != nil {
			return nil, err
		}
		o.store.started = true
		return c, nil
	}
}
