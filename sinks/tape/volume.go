// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"bytes"
	"errors"
	"fmt"
)

// readBytes is how much a read of a tape whose blocks are not known asks for. Many
// host adapters take no more.
const readBytes = 1 << 20

// volume is the tape in the drive, as it was found or written.
type volume struct {
	drive drive
	label *record // nil: blank or of others
	last  *record // the newest trailer, or the label: it has the directory; as label
	blank bool
	// unread is why label or last trailer could not be read. Nothing is written then
	// but a new label.
	unread error
	// end is the position behind last, where the next stream begins; -1 if the drive
	// does not tell positions.
	end int64
}

// inspect finds out what the tape in a drive is.
func inspect(d drive, o *options) (*volume, error) {
	v := &volume{drive: d}
	if err := d.do(opRewind, 1); err != nil {
		return nil, err
	}
	if err := d.do(opSetBlock, 0); err != nil {
		if err2 := d.do(opSetBlock, o.block); err2 != nil { // one that has fixed blocks only
			return nil, errors.Join(err, err2)
		}
	}
	b, err := readRecord(d, readBytes)
	if errors.Is(err, errSmall) { // longer than all that can be a label
		return v, nil
	}
	if errors.Is(err, errIO) && isBlank(d) {
		v.blank = true
		return v, nil
	}
	if errors.Is(err, errIO) { // it can be written over, if that is asked for
		v.unread = fmt.Errorf("read the label: %w", err)
		return v, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the label: %w", err)
	}
	r, err := parseRecord(b)
	if errors.Is(err, errNoRecord) || err == nil && r.trailer {
		return v, nil
	}
	if err != nil {
		return nil, err
	}
	v.label, v.last = r, r
	if err := v.setBlock(); err != nil {
		return nil, err
	}
	if err := v.findEnd(); errors.Is(err, errIO) || errors.Is(err, errNoTrailer) {
		v.unread = err
	} else if err != nil {
		return nil, err
	}
	return v, nil
}

// known reports if label and directory are there.
func (v *volume) known() bool { return v.label != nil && v.unread == nil }

// isBlank finds out if a read has failed because nothing was ever written: data ends
// where the tape begins then.
func isBlank(d drive) bool {
	if d.do(opEnd, 1) != nil {
		return false
	}
	p, err := d.position()
	return err == nil && p == 0
}

// foreign is the error of a tape that is not known.
func (v *volume) foreign() error {
	if v.unread != nil {
		return v.unread
	}
	return errForeign
}

// setBlock sets the drive to the volume's blocks.
func (v *volume) setBlock() error {
	n := 0
	if v.label.Fixed {
		n = v.label.BlockBytes
	}
	return v.drive.do(opSetBlock, n)
}

// readRecord reads a tape file that may be a label or a trailer, or the first block
// of one that is none. bytes is how much a read asks for.
func readRecord(d drive, bytes int) ([]byte, error) {
	buffer := aligned(bytes)
	var all []byte
	for {
		n, err := d.read(buffer)
		if err != nil || n == 0 {
			return all, err
		}
		all = append(all, buffer[:n]...)
		if !isRecord(all) || len(all) > 2*maxRecordBytes {
			return all, nil
		}
	}
}

// lookBack is how many tape files behind the last trailer something that was cut short
// can have left: a stream, a part of its trailer, and an empty one.
const lookBack = 4

// findEnd finds the last trailer. What is behind it was never committed.
func (v *volume) findEnd() error {
	for n := range lookBack {
		if err := v.drive.do(opEnd, 1); err != nil {
			return err
		}
		err := v.drive.do(opBack, n+2)
		if errors.Is(err, errIO) && v.atBeginning() { // there are not as many filemarks: the label is all
			return v.toLabel()
		}
		if err != nil {
			return err
		}
		b, err := readRecord(v.drive, v.recordSize())
		if err != nil && !errors.Is(err, errSmall) {
			return fmt.Errorf("look for the last trailer: %w", err)
		}
		r, err := parseRecord(b)
		if err == nil && r.trailer && r.Set == v.label.Set && r.Volume == v.label.Volume {
			v.last = r
			return v.noteEnd()
		}
	}
	return fmt.Errorf("volume %d of %s: %w", v.label.Volume, v.label.Set, errNoTrailer)
}

var errNoTrailer = fmt.Errorf("none of the last %d tape files is a trailer: this tape was written by something else, too", lookBack)

// atBeginning reports if the tape is at its beginning.
func (v *volume) atBeginning() bool {
	s, err := v.drive.status()
	return err == nil && s.beginning
}

// readSize is a length for reads of streams: a block, or several fixed ones.
func (v *volume) readSize() int {
	return v.label.BlockBytes * max(readBytes/v.label.BlockBytes, 1)
}

// recordSize is one for labels and trailers. A drive answers more than there is in a
// block of its own length with an error and the block, which takes time.
func (v *volume) recordSize() int {
	if v.label.Fixed {
		return v.readSize()
	}
	return v.recordBlock()
}

func (v *volume) toLabel() error {
	if err := v.drive.do(opRewind, 1); err != nil {
		return err
	}
	if err := v.drive.do(opSpace, 1); err != nil {
		return err
	}
	return v.noteEnd()
}

// noteEnd has the next stream begin here.
func (v *volume) noteEnd() error {
	p, err := v.drive.position()
	if err != nil {
		p = -1 // it is found by counting filemarks
	}
	v.end = p
	return nil
}

// toEnd goes where the next stream begins.
func (v *volume) toEnd() error {
	if v.end >= 0 && v.end < 1<<31 {
		err := v.drive.do(opSeek, int(v.end))
		if err != nil {
			return err
		}
		if p, err := v.drive.position(); err != nil || p != v.end {
			return fmt.Errorf("the drive is at %d and not at %d, where the next stream begins: %w", p, v.end, errors.Join(errIO, err))
		}
		return nil
	}
	return v.toFile(v.last.File + 1)
}

// toFile goes to the beginning of a tape file.
func (v *volume) toFile(n int) error {
	if err := v.drive.do(opRewind, 1); err != nil || n == 0 {
		return err
	}
	return v.drive.do(opSpace, n)
}

// full reports if the volume has ended within a stream.
func (v *volume) full() bool {
	n := len(v.last.Streams)
	return v.last.trailer && n > 0 && v.last.Streams[n-1].Continued && v.last.Streams[n-1].lastVolume() == v.label.Volume
}

func (e *entry) lastVolume() int { return e.Parts[len(e.Parts)-1].Volume }

// writeLabel begins the volume anew.
func (v *volume) writeLabel(r *record) error {
	if err := v.drive.do(opRewind, 1); err != nil {
		return err
	}
	v.label, v.last, v.blank, v.unread = r, r, false, nil
	if err := v.setBlock(); err != nil {
		return fmt.Errorf("%w; does the drive take blocks of %d bytes?", err, r.BlockBytes)
	}
	if err := v.writeRecord(r); err != nil {
		return fmt.Errorf("write the label: %w", err)
	}
	return v.noteEnd()
}

// writeTrailer writes a trailer behind the file that has just ended.
func (v *volume) writeTrailer(r *record) error {
	if err := v.writeRecord(r); err != nil {
		return fmt.Errorf("write the trailer: %w", err)
	}
	v.last = r
	return v.noteEnd()
}

// writeRecord writes a record as a tape file, also behind the early warning.
func (v *volume) writeRecord(r *record) error {
	b, err := r.encode()
	if err != nil {
		return err
	}
	block := v.recordBlock()
	b = append(b, make([]byte, (block-len(b)%block)%block)...) // whole blocks, which all drives read the same
	buffer := aligned(block)
	for r := bytes.NewReader(b); r.Len() > 0; {
		n, _ := r.Read(buffer) // it has some
		if err := inZone(func() error { _, err := v.drive.write(buffer[:n]); return err }); err != nil {
			return err
		}
	}
	return v.mark()
}

// recordBytes is the length of the blocks of labels and trailers, unless those of the
// volume are shorter or fixed. Short ones need little room behind the early warning.
const recordBytes = 16 << 10

func (v *volume) recordBlock() int {
	if v.label.Fixed {
		return v.label.BlockBytes
	}
	return min(v.label.BlockBytes, recordBytes)
}

// mark writes a filemark, and with it everything before to the tape.
func (v *volume) mark() error {
	return inZone(func() error { return v.drive.do(opMark, 1) })
}

// inZone does something that writes behind the early warning: every other time the
// driver only says again that the end is near.
func inZone(f func() error) error {
	err := f()
	if errors.Is(err, errEnd) {
		err = f()
	}
	return err
}
