// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/plugins"
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

// foundSink is what sink list and sink describe print with --json.
type foundSink struct {
	sinks.Description
	Path  string `json:"path,omitempty"`  // of the plugin
	Error string `json:"error,omitempty"` // why it cannot be used
}

func newSinkList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the sinks",
		Long: "List prints the schemes of targets. Plugins are started to tell what they are; one\nthat cannot be used is warned of.\n\n" + exitCodes,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			host, err := a.host()
			if err != nil {
				return err
			}
			all := host.List(c.Context())
			if err := c.Context().Err(); err != nil {
				return err
			}
			if a.console.JSON {
				err = a.printFound(all)
			} else {
				err = a.printText(func(w io.Writer) error { return listSinks(w, all) })
			}
			for _, f := range all {
				if f.Err != nil {
					a.console.Warn(fmt.Sprintf("%s cannot be used: %v", f.Path, f.Err))
				}
			}
			return errors.Join(err, a.done())
		},
	}
}

func (a *app) printFound(all []plugins.Found) error {
	for _, f := range all {
		found := foundSink{Description: f.Description, Path: f.Path}
		if f.Err != nil {
			found.Error = f.Err.Error()
		}
		if found.Options == nil { // a list is a list
			found.Options = []sinks.Option{}
		}
		if found.Environment == nil {
			found.Environment = []string{}
		}
		if err := a.printJSON(found); err != nil {
			return err
		}
	}
	return nil
}

func listSinks(w io.Writer, all []plugins.Found) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "SCHEME\tTARGET\tWHAT IT IS\n")
	for _, f := range all {
		switch {
		case f.Err != nil:
			fmt.Fprintf(t, "%s\t-\tcannot be used (%s)\n", f.Scheme, cli.Clean(f.Path))
		case f.Path != "":
			fmt.Fprintf(t, "%s\t%s\t%s (%s)\n", f.Scheme, f.Form, f.Summary, cli.Clean(f.Path))
		default:
			fmt.Fprintf(t, "%s\t%s\t%s\n", f.Scheme, f.Form, f.Summary)
		}
	}
	return t.Flush()
}

func newSinkDescribe(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "describe SCHEME", Short: "Tell of a sink's targets and options",
		Long: "Describe tells what a sink can do, which options its targets have, and which variables\nof the environment it sees.\n\n" + exitCodes, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			host, err := a.host()
			if err != nil {
				return err
			}
			f, err := host.Describe(c.Context(), args[0])
			switch {
			case errors.Is(err, plugins.ErrNoSink):
				return noSink(args[0])
			case err != nil:
				return asSink(err)
			case a.console.JSON:
				return a.printFound([]plugins.Found{f})
			}
			return a.printText(func(w io.Writer) error { return describeSink(w, &f) })
		},
	}
}

func describeSink(w io.Writer, d *plugins.Found) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "%s\t%s\ntarget\t%s\n", d.Scheme, d.Summary, d.Form)
	if d.Path != "" {
		fmt.Fprintf(t, "plugin\t%s\n", cli.Clean(d.Path))
	}
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
