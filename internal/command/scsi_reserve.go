// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/scsi"
)

const (
	longSCSIReserve = `Reserve reserves a LUN for this host: no other can use it until it is released or reset, or
loses power. It is RESERVE(6), as hosts took it for VMFS, or with --persistent a persistent
reservation under a key, which a reset does not break. It stays when the command ends.`

	longSCSIRelease = `Release ends a reservation that this host has. One of another host stays: scsi reset breaks
that, if it is not persistent. With --persistent the registration of the key ends as well.`

	longSCSIReset = `Reset resets a LUN. It breaks a reservation by RESERVE(6), whoever has it, and ends the
commands of all hosts that are under way: a host that still uses the LUN may write to it
afterwards though another has reserved it. It tells who has reserved the LUN and asks
twice, or takes the id of the LUN from --confirm.`
)

// scsiReserve are the flags of reserve, release and reset.
type scsiReserve struct {
	names      lunNames
	persistent bool
	key        string
	kind       string
	confirm    string
	target     bool
}

// scsiResult is what they print with --json. docs/scripting.md has it.
type scsiResult struct {
	Operation   string            `json:"operation"`
	Node        string            `json:"node"`
	ID          scsi.ID           `json:"id,omitempty"`
	Reservation *scsi.Reservation `json:"reservation,omitempty"` // afterwards
}

func (o *scsiReserve) addPersistent(c *cobra.Command) {
	c.Flags().BoolVar(&o.persistent, "persistent", false, "a persistent reservation")
	c.Flags().StringVar(&o.key, "key", "", "key of this host for persistent reservations, 1 to 16 hexadecimal digits")
	c.Flags().StringVar(&o.kind, "type", scsi.WriteExclusive.String(), "what a persistent reservation keeps others from")
	var kinds []string
	for t := scsi.WriteExclusive; t <= scsi.ExclusiveAccessAllRegistrants; t++ {
		if _, err := scsi.ParsePersistentType(t.String()); err == nil {
			kinds = append(kinds, t.String())
		}
	}
	complete(c, "type", kinds)
}

func newSCSIReserve(a *app) *cobra.Command {
	return newReservation(a, "reserve", "Reserve a LUN for this host", longSCSIReserve, (*scsiReserve).reserve)
}

func newSCSIRelease(a *app) *cobra.Command {
	return newReservation(a, "release", "Release a LUN that this host has reserved", longSCSIRelease, (*scsiReserve).release)
}

func newReservation(a *app, name, short, long string, do func(*scsiReserve, context.Context, *scsi.LUN, *scsi.Device) error) *cobra.Command {
	var o scsiReserve
	c := &cobra.Command{
		Use: name + " [flags] LUN", Short: short, Long: long + "\n\n" + exitCodes, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return o.run(c.Context(), a, name, args[0], func(ctx context.Context, l *scsi.LUN, d *scsi.Device) error { return do(&o, ctx, l, d) })
		},
	}
	o.names.add(c)
	o.addPersistent(c)
	return c
}

func newSCSIReset(a *app) *cobra.Command {
	var o scsiReserve
	c := &cobra.Command{
		Use: "reset [flags] LUN", Short: "Reset a LUN, which breaks the reservation of any host",
		Long: longSCSIReset + "\n\n" + exitCodes, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return o.runReset(c.Context(), a, args[0])
		},
	}
	o.names.add(c)
	c.Flags().StringVar(&o.confirm, "confirm", "", "do not ask: reset the LUN if this is its id (or its address, if it has none)")
	c.Flags().BoolVar(&o.target, "target", false, "reset all LUNs of the target")
	return c
}

// run does something with a LUN, and tells who has reserved it afterwards.
func (o *scsiReserve) run(ctx context.Context, a *app, what, name string, do func(context.Context, *scsi.LUN, *scsi.Device) error) error {
	l, d, err := o.names.open(name)
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // what was done is done
	if err := do(ctx, l, d); err != nil {
		return cli.Source(err)
	}
	r := &scsiResult{Operation: what, Node: l.CommandNode(), ID: l.ID}
	if now, err := d.Reservation(ctx); err == nil {
		r.Reservation = &now
	}
	return a.tell(r, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: %s %s\n", what, r.Node, r.ID)
		return err
	})
}

func (o *scsiReserve) runReset(ctx context.Context, a *app, name string) error {
	return o.run(ctx, a, "reset", name, func(ctx context.Context, l *scsi.LUN, d *scsi.Device) error { return o.reset(ctx, a, l, d) })
}

// lunID is the id that reset wants to be told, or the address of a LUN without one.
func lunID(l *scsi.LUN) string {
	if l.ID != "" {
		return string(l.ID)
	}
	return l.Address.String()
}

// parseKey reads the key of this host.
func (o *scsiReserve) parseKey() (scsi.Key, scsi.PersistentType, error) {
	k, err := strconv.ParseUint(strings.TrimPrefix(strings.ToLower(o.key), "0x"), 16, 64)
	if err != nil || k == 0 {
		return 0, 0, cli.Usage(fmt.Errorf("--key %q: 1 to 16 hexadecimal digits, and not 0", o.key))
	}
	t, err := scsi.ParsePersistentType(o.kind)
	if err != nil {
		return 0, 0, cli.Usage(fmt.Errorf("--type %w", err))
	}
	return scsi.Key(k), t, nil
}

func (o *scsiReserve) reserve(ctx context.Context, _ *scsi.LUN, d *scsi.Device) error {
	if !o.persistent {
		return d.Reserve(ctx)
	}
	key, t, err := o.parseKey()
	if err != nil {
		return err
	}
	if err := d.Register(ctx, key); err != nil {
		return err
	}
	if err := d.ReservePersistent(ctx, key, t); err != nil {
		return errors.Join(err, d.Register(ctx, 0)) // as it was before
	}
	return nil
}

func (o *scsiReserve) release(ctx context.Context, l *scsi.LUN, d *scsi.Device) error {
	if !o.persistent {
		if err := d.Release(ctx); err != nil {
			return err
		}
		// Devices say that all is well where another host has the reservation.
		if err := d.TestReady(ctx); errors.Is(err, scsi.ErrReserved) {
			return fmt.Errorf("%v is not this host's to release: %w", l.CommandNode(), err)
		}
		return nil
	}
	key, t, err := o.parseKey()
	if err != nil {
		return err
	}
	r, err := d.Reservation(ctx)
	if err != nil {
		return err
	}
	if r.Persistent && r.Key == key {
		if err := d.ReleasePersistent(ctx, key, r.Type); err != nil {
			return err
		}
	} else if r.Persistent {
		return fmt.Errorf("%s: %v: not under key %v (%v): %w", d.Name(), &r, key, t, scsi.ErrReserved)
	}
	return d.Register(ctx, 0)
}

func (o *scsiReserve) reset(ctx context.Context, a *app, l *scsi.LUN, d *scsi.Device) error {
	if err := o.agreed(ctx, a, lunID(l), d); err != nil {
		return err
	}
	scope := scsi.ResetLUN
	if o.target {
		scope = scsi.ResetTarget
	}
	return d.Reset(ctx, scope)
}

// agreed asks twice if the LUN is to be reset, unless its id was given.
func (o *scsiReserve) agreed(ctx context.Context, a *app, id string, d *scsi.Device) error {
	held := "that is not known"
	r, err := d.Reservation(ctx)
	if err == nil {
		held = r.String()
	}
	switch {
	case o.confirm == id:
		a.console.Detail("%s: reserved: %s", d.Name(), held)
		return nil
	case o.confirm != "":
		return cli.Usage(fmt.Errorf("--confirm %s: the LUN is %s", o.confirm, id))
	case !cli.IsTerminal(a.In):
		return cli.Usage(fmt.Errorf("nobody can be asked if %s, reserved: %s, is to be reset: say --confirm %s", d.Name(), held, id))
	}
	in := bufio.NewReader(a.In)
	for _, q := range []struct{ text, want string }{
		{fmt.Sprintf("%s is reserved: %s. Commands of all hosts end. Type its id, %s, to reset it: ", d.Name(), held, id), id},
		{"Type reset to do it now: ", "reset"},
	} {
		if _, err := io.WriteString(a.Err, cli.Clean(q.text)); err != nil {
			return err
		}
		line, err := in.ReadString('\n')
		if err != nil || strings.TrimSpace(line) != q.want {
			return &cli.Error{Code: cli.ExitFailed, Err: errors.New("it was not reset")}
		}
	}
	return nil
}
