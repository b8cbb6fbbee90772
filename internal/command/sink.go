// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/builtin"
	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/sinkcheck"
)

const longSink = `Sink tells which sinks there are, and looks after what they have stored. A target is
SCHEME:REST, or a path.`

func newSink(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "sink", Short: "Tell of sinks and of what they have stored", Long: longSink + "\n\n" + exitCodes,
		Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newSinkList(a), newSinkDescribe(a), newSinkVerify(a), newSinkLs(a), newSinkRm(a), newSinkOrphans(a))
	return c
}

func newSinkList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the sinks", Long: "List prints the schemes of targets.\n\n" + exitCodes, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.console.JSON {
				for _, d := range builtin.Drivers() {
					if err := a.printJSON(d.Describe()); err != nil {
						return err
					}
				}
				return nil
			}
			return a.printText(func(w io.Writer) error {
				t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
				fmt.Fprintf(t, "SCHEME\tTARGET\tWHAT IT IS\n")
				for _, driver := range builtin.Drivers() {
					d := driver.Describe()
					fmt.Fprintf(t, "%s\t%s\t%s\n", d.Scheme, d.Form, d.Summary)
				}
				return t.Flush()
			})
		},
	}
}

func newSinkDescribe(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "describe SCHEME", Short: "Tell of a sink's targets and options",
		Long: "Describe tells what a sink can do, and which options its targets have.\n\n" + exitCodes, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			for _, driver := range builtin.Drivers() {
				d := driver.Describe()
				switch {
				case d.Scheme != args[0]:
				case a.console.JSON:
					return a.printJSON(d)
				default:
					return a.printText(func(w io.Writer) error { return describeSink(w, &d) })
				}
			}
			return cli.Usage(fmt.Errorf("no sink is called %s", args[0]))
		},
	}
}

func describeSink(w io.Writer, d *sinks.Description) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "%s\t%s\ntarget\t%s\n", d.Scheme, d.Summary, d.Form)
	c := &d.Capabilities
	for _, can := range []struct {
		name string
		can  bool
	}{
		{"read", c.Read},
		{"range", c.Range},
		{"stat", c.Stat},
		{"list", c.List},
		{"delete", c.Delete},
		{"resume", c.Resume},
		{"orphans", c.Orphans},
		{"atomic", c.Atomic},
		{"exclusive", c.Exclusive},
		{"concurrent", c.Concurrent},
	} {
		fmt.Fprintf(t, "%s\t%s\n", can.name, map[bool]string{true: "yes", false: "no"}[can.can])
	}
	for _, o := range d.Options {
		fmt.Fprintf(t, "?%s=\t%s", o.Name, o.Usage)
		if o.Default != "" {
			fmt.Fprintf(t, " (%s if not given)", o.Default)
		}
		fmt.Fprintln(t)
	}
	for _, name := range d.Environment {
		fmt.Fprintf(t, "$%s\t\n", name)
	}
	return t.Flush()
}

// withTarget opens a target for do. What fails is trouble with the sink.
func (a *app) withTarget(ctx context.Context, name string, do func(*target) error) error {
	t, err := a.openTarget(ctx, name)
	if err != nil {
		return asSink(err)
	}
	err = do(t)
	if errors.Is(err, cli.ErrWarnings) {
		return errors.Join(t.sink.Close(), err)
	}
	if err = errors.Join(err, t.sink.Close()); err != nil {
		return asSink(fmt.Errorf("%s: %w", t.name, err))
	}
	return nil
}

// sinkCheck is what sink verify prints with --json.
type sinkCheck struct {
	Check   string `json:"check"`
	Skipped string `json:"skipped,omitempty"` // capability that the sink does not claim and the check needs
	Error   string `json:"error,omitempty"`
}

func newSinkVerify(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "verify TARGET", Short: "Check that a sink keeps its promises",
		Long: "Verify stores and removes small objects, whose keys begin with that of the target and\ncheck-, and checks that the sink does what all sinks have to do.\n\n" + exitCodes,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withTarget(c.Context(), args[0], func(t *target) error {
				var printed error
				err := sinkcheck.Verify(c.Context(), t.sink, t.key, func(k sinkcheck.Check) {
					printed = errors.Join(printed, a.tellCheck(k))
				})
				return errors.Join(err, printed)
			})
		},
	}
}

func (a *app) tellCheck(k sinkcheck.Check) error {
	told, state := sinkCheck{Check: k.Name, Skipped: k.Skipped}, "right"
	switch {
	case k.Skipped != "":
		state = "skipped, the sink does not claim " + k.Skipped
	case k.Err != nil:
		told.Error, state = k.Err.Error(), "WRONG: "+k.Err.Error()
	}
	if a.console.JSON {
		return a.printJSON(told)
	}
	return a.printText(func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: %s\n", k.Name, state)
		return err
	})
}
