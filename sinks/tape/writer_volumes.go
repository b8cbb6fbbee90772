// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"fmt"
	"time"
)

// endPart ends the tape file, and compares what the drive says it has.
func (w *writer) endPart() error {
	if err := w.v.mark(); err != nil {
		return err
	}
	w.entry.Parts = append(w.entry.Parts, part{Volume: w.v.label.Volume, File: w.v.last.File + 1, Bytes: w.part})
	p, err := w.v.drive.position()
	if err != nil || w.position < 0 {
		return nil //nolint:nilerr // this drive does not tell
	}
	if want := w.position + w.blocks + 1; p != want {
		return fmt.Errorf("the drive has %d blocks of %d: it has lost some", p-w.position-1, w.blocks)
	}
	return nil
}

// trailer is the record behind the part that has just ended.
func (w *writer) trailer() *record {
	r := *w.v.label
	r.trailer, r.Continues, r.File = true, nil, w.v.last.File+2
	r.Written, r.UsedBytes = time.Now().UTC().Truncate(time.Second), w.used
	w.entry.Stored = r.Written
	r.Streams = append(append([]entry{}, w.v.last.Streams...), w.entry)
	return &r
}

// nextVolume ends this volume and goes on with the next one.
func (w *writer) nextVolume() error {
	if len(w.entry.Parts)+1 == maxParts {
		return fmt.Errorf("a stream on more than %d volumes", maxParts)
	}
	if err := w.endPart(); err != nil {
		return fmt.Errorf("at the end of volume %d: %w", w.v.label.Volume, err)
	}
	before := w.v.last.Streams
	w.entry.Continued = true
	if err := w.v.writeTrailer(w.trailer()); err != nil {
		return fmt.Errorf("at the end of volume %d: %w", w.v.label.Volume, err)
	}
	c := &continuation{Stream: w.entry.Stream, Number: w.entry.Number}
	for _, p := range w.entry.Parts {
		c.Bytes += p.Bytes
	}
	if err := w.change(before, c); err != nil {
		return err
	}
	w.entry.Continued = false
	w.beginPart()
	return nil
}

// change has the next volume of the set put in, and labels it.
func (w *writer) change(streams []entry, c *continuation) error {
	old := w.v
	w.s.tellAlerts(old.drive)
	next := *old.label
	next.Volume, next.Continues, next.Streams = old.label.Volume+1, c, streams
	if next.Volume > maxParts {
		return fmt.Errorf("a set of more than %d volumes", maxParts)
	}
	w.v = nil
	v, err := w.s.changeTo(w.ctx, old, wanted{next.Set, next.Name, next.Volume, true}, func(v *volume) error {
		return w.s.usable(v, &next)
	})
	if err != nil {
		return err
	}
	w.v = v
	if v.known() && v.last.trailer && v.label.Set == next.Set { // it has streams already
		return nil
	}
	next.Written = time.Now().UTC().Truncate(time.Second)
	if err := v.writeLabel(&next); err != nil {
		return err
	}
	return nil
}

// usable refuses a tape that must not become, or is not, the next volume.
func (s *sink) usable(v *volume, next *record) error {
	switch {
	case v.blank:
		return nil
	case !v.known() && (!s.relabel || v.label != nil && v.label.Set == next.Set):
		return v.foreign()
	case !v.known():
		return nil
	case v.label.Set == next.Set && v.label.Volume == next.Volume && (!v.last.trailer || next.Continues == nil && !v.full()):
		return nil
	case v.label.Set == next.Set:
		return fmt.Errorf("it is volume %d of this set", v.label.Volume)
	case s.relabel:
		return nil
	}
	return fmt.Errorf("it is volume %d of another set, %s (%s)", v.label.Volume, v.label.Name, v.label.Set)
}
