// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"fmt"
	"io"
)

// toVolume has a volume of the set put in, unless it is there.
func (r *reader) toVolume(n int) error {
	label := r.v.label
	if label.Volume == n {
		return nil
	}
	old := r.v
	r.v = nil
	v, err := r.s.changeTo(r.ctx, old, wanted{label.Set, label.Name, n, false}, func(v *volume) error {
		switch {
		case !v.known():
			return v.foreign()
		case v.label.Set != label.Set || v.label.Volume != n:
			return fmt.Errorf("it is volume %d of %s (%s)", v.label.Volume, v.label.Name, v.label.Set)
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.v = v
	return nil
}

// padding is how much more was read than the stream has.
func (r *reader) padding() int64 {
	if r.want.Stream == "" || r.want.Size < 0 {
		return 0
	}
	return r.got - r.want.Size
}

// checkPadding fails if more was read than the stream has, and it cannot be padding.
func (r *reader) checkPadding() error {
	pad := r.padding()
	if pad > 0 && (!r.v.label.Fixed || pad >= int64(r.v.label.BlockBytes)) {
		return fmt.Errorf("there is more than its %d bytes: %w", r.want.Size, io.ErrUnexpectedEOF)
	}
	return nil
}

// endOfFile is called at a filemark. It gives io.EOF if the stream has ended, and goes
// to the next volume if there is more.
func (r *reader) endOfFile() error {
	if r.want.Stream == "" {
		return io.EOF
	}
	if r.want.Size < 0 {
		if err := r.look(); err != nil {
			return err
		}
	}
	switch {
	case r.want.Size >= 0 && r.got >= r.want.Size:
		return r.orEnd(r.checkPadding())
	case r.v.label.Volume >= r.want.lastVolume() && !r.want.Continued:
		return fmt.Errorf("%d bytes of %d are there: %w", r.got, r.want.Size, io.ErrUnexpectedEOF)
	}
	return r.nextVolume()
}

func (*reader) orEnd(err error) error {
	if err != nil {
		return err
	}
	return io.EOF
}

// nextVolume goes to where the stream goes on.
func (r *reader) nextVolume() error {
	was := r.v.label
	next := was.Volume + 1
	if err := r.toVolume(next); err != nil {
		return err
	}
	c := r.v.label.Continues
	switch {
	case c == nil || c.Stream != r.want.Stream:
		return fmt.Errorf("volume %d does not go on with it: it was never stored to its end, or the volume was written over: %w", next, io.ErrUnexpectedEOF)
	case c.Bytes != r.got:
		return fmt.Errorf("volume %d goes on at byte %d, and %d bytes were read: %w", next, c.Bytes, r.got, io.ErrUnexpectedEOF)
	case r.v.label.BlockBytes != was.BlockBytes || r.v.label.Fixed != was.Fixed:
		return fmt.Errorf("volume %d has other blocks: %w", next, io.ErrUnexpectedEOF)
	}
	return r.v.toFile(1)
}

// look reads the trailer behind the file, which says if the stream ends here.
func (r *reader) look() error {
	b, err := readRecord(r.v.drive, r.v.recordSize())
	if err != nil {
		return fmt.Errorf("read its trailer: %w", err)
	}
	t, err := parseRecord(b)
	if err != nil {
		return fmt.Errorf("it has no trailer: %w: %w", err, io.ErrUnexpectedEOF)
	}
	e := t.find(func(e *entry) bool { return e.Stream == r.want.Stream })
	if e == nil || t.Set != r.v.label.Set {
		return fmt.Errorf("the trailer is of another stream: %w", io.ErrUnexpectedEOF)
	}
	r.want = *e
	return nil
}
