// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
)

// storedObject is what sink ls and sink orphans print with --json.
type storedObject struct {
	Key       string     `json:"key"`
	ID        string     `json:"id,omitempty"`
	SizeBytes *int64     `json:"size_bytes,omitempty"`
	Modified  *time.Time `json:"modified,omitempty"`
	Removed   bool       `json:"removed,omitempty"`
}

func newObject(key, id string, sizeBytes int64, modified time.Time) *storedObject {
	o := &storedObject{Key: key, ID: id}
	if sizeBytes >= 0 {
		o.SizeBytes = &sizeBytes
	}
	if !modified.IsZero() {
		modified = modified.UTC()
		o.Modified = &modified
	}
	return o
}

// tellObject prints an object as soon as it is known: there may be many.
func (a *app) tellObject(o *storedObject) error {
	if a.console.JSON {
		return a.printJSON(o)
	}
	return a.printText(func(w io.Writer) error {
		size, modified, removed := "-", "-", ""
		if o.SizeBytes != nil {
			size = cli.Bytes(*o.SizeBytes)
		}
		if o.Modified != nil {
			modified = o.Modified.Format("2006-01-02 15:04:05 UTC")
		}
		if o.Removed {
			removed = "  removed"
		}
		_, err := fmt.Fprintf(w, "%-10s  %-23s  %s%s\n", size, modified, o.Key, removed)
		return err
	})
}

func newSinkLs(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "ls TARGET", Short: "List what is stored",
		Long: "Ls prints the objects whose keys begin with that of the target.\n\n" + exitCodes, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withTarget(c.Context(), args[0], func(t *target) error {
				for o, err := range t.sink.List(c.Context(), t.key) {
					if err != nil {
						return err
					}
					if err := a.tellObject(newObject(o.Key, "", o.SizeBytes, o.Modified)); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func newSinkRm(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "rm TARGET", Short: "Remove an object",
		Long: "Rm removes the object that the target names.\n\n" + exitCodes, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withTarget(c.Context(), args[0], func(t *target) error {
				if t.place() {
					return cli.Usage(fmt.Errorf("%s: name one object", t.name))
				}
				return t.sink.Delete(c.Context(), t.key)
			})
		},
	}
}

func newSinkOrphans(a *app) *cobra.Command {
	var remove bool
	var olderThan time.Duration
	c := &cobra.Command{
		Use: "orphans [flags] TARGET", Short: "List or remove what killed runs have left",
		Long: "Orphans prints what runs have left that neither finished nor removed it. Some may\nbelong to a run that is at work: --older-than tells them apart.\n\n" + exitCodes,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if olderThan < 0 {
				return cli.Usage(errors.New("--older-than must not be less than 0"))
			}
			return a.withTarget(c.Context(), args[0], func(t *target) error {
				return a.orphans(c.Context(), t, remove, time.Now().Add(-olderThan))
			})
		},
	}
	c.Flags().BoolVar(&remove, "remove", false, "remove them")
	c.Flags().DurationVar(&olderThan, "older-than", 24*time.Hour, "only those that were begun longer ago, and never those of which that is not known")
	return c
}

func (a *app) orphans(ctx context.Context, t *target, remove bool, before time.Time) error {
	for o, err := range t.sink.Orphans(ctx, t.key) {
		if err != nil {
			return err
		}
		if o.Begun.IsZero() && remove || o.Begun.After(before) {
			continue
		}
		told := newObject(o.Key, o.ID, o.SizeBytes, o.Begun)
		if remove {
			if err := t.sink.RemoveOrphan(ctx, o); err != nil {
				a.console.Warn(fmt.Sprintf("%s is not removed: %v", o.Key, err))
			} else {
				told.Removed = true
			}
		}
		if err := a.tellObject(told); err != nil {
			return err
		}
	}
	return a.done()
}
