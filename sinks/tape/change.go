// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/vmstream/vmstream/sinks/internal/child"
)

// maxChanges bounds how many tapes a command may bring until one is the right one.
const maxChanges = 64

// wanted says which volume is to come.
type wanted struct {
	set, name string
	volume    int
	writing   bool
}

func (w wanted) String() string { return fmt.Sprintf("volume %d of %s (%s)", w.volume, w.name, w.set) }

// openPath opens the drive, real or virtual.
func (o *options) openPath(writing bool) (drive, error) {
	if st, err := os.Stat(o.path); err == nil && st.IsDir() {
		return openVirtual(o.path, writing, o.faults)
	}
	return openDevice(o.path, writing)
}

// openWaiting opens the drive, and waits for a tape in it until the time is over.
func (s *sink) openWaiting(ctx context.Context, writing bool, until time.Time) (drive, error) {
	for told := false; ; {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		d, err := s.openPath(writing)
		if !errors.Is(err, errNoTape) || !time.Now().Before(until) {
			return d, err
		}
		if !told {
			told = true
			s.log.Warn("waiting for a tape", "drive", s.path, "until", until.Format(time.RFC3339))
		}
		select {
		case <-time.After(s.poll):
		case <-ctx.Done():
		}
	}
}

// changeTo takes the tape out and returns the volume that is put in for it, once it is
// one that accept takes. v is not used any more.
func (s *sink) changeTo(ctx context.Context, v *volume, w wanted, accept func(*volume) error) (*volume, error) {
	until := time.Now().Add(s.wait)
	for n := 1; ; n++ {
		if s.change != "" { // each tape that it puts in has its own time to get ready
			until = time.Now().Add(s.wait)
		}
		if err := s.eject(v); err != nil {
			return nil, fmt.Errorf("take the tape out: %w", err)
		}
		if err := s.ask(ctx, w); err != nil {
			return nil, fmt.Errorf("%v: %w", w, err)
		}
		var err error
		if v, err = s.inserted(ctx, w, until); err == nil {
			err = accept(v)
		}
		if err == nil {
			return v, nil
		}
		if v == nil || n == maxChanges || s.change == "" && !time.Now().Before(until) {
			if v != nil {
				err = errors.Join(err, v.drive.close())
			}
			return nil, fmt.Errorf("waiting for %v: %w", w, err)
		}
		s.log.Warn("this tape cannot be used", "wanted", w.String(), "error", err)
	}
}

// inserted returns the volume that has been put in. With an error it is one that
// can only be taken out again, or nil.
func (s *sink) inserted(ctx context.Context, w wanted, until time.Time) (*volume, error) {
	d, err := s.openWaiting(ctx, w.writing, until)
	if errors.Is(err, errProtected) {
		if d, rerr := s.openPath(false); rerr == nil {
			return &volume{drive: d}, err
		}
	}
	if err != nil {
		return nil, err
	}
	v, err := inspect(d, s.options)
	if err != nil {
		return &volume{drive: d}, err
	}
	return v, nil
}

// eject unloads the tape.
func (s *sink) eject(v *volume) error {
	return errors.Join(v.drive.do(opOffline, 1), v.drive.close())
}

// ask runs the command that changes the tape, or tells people to.
func (s *sink) ask(ctx context.Context, w wanted) error {
	if s.change == "" {
		if s.wait == 0 {
			return errors.New("the volume has to be changed, and there is neither change= nor a time to wait")
		}
		s.log.Warn("put in "+w.String(), "drive", s.path, "within", s.wait.String())
		return nil
	}
	why := "read"
	if w.writing {
		why = "write"
	}
	p, err := child.Start(child.Command{
		Argv: []string{"/bin/sh", "-c", s.change}, Log: s.log, Name: "change",
		Env: []string{
			"VMSTREAM_TAPE=" + s.path, "VMSTREAM_VOLUME=" + strconv.Itoa(w.volume),
			"VMSTREAM_SET=" + w.set, "VMSTREAM_LABEL=" + w.name, "VMSTREAM_WHY=" + why,
		},
	})
	if err != nil {
		return err
	}
	if err = p.Wait(ctx); !p.Ended() {
		p.Kill()
	}
	return err
}

// tellAlerts logs what the drive warns of.
func (s *sink) tellAlerts(d drive) {
	a, ok := d.(alerter)
	if !ok {
		return
	}
	flags, err := a.alerts()
	for _, f := range flags {
		s.log.Warn("TapeAlert: "+f, "drive", s.path)
	}
	if err != nil {
		s.log.Debug("TapeAlert cannot be read", "drive", s.path, "error", err)
	}
}
