// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package freespace

import (
	"strings"
	"unicode/utf16"
)

// hibernated refuses a volume that belongs to a system which is asleep: that goes on with
// what it has in memory.
func (f *ntfsFS) hibernated() error {
	n, ok, err := f.lookup("hiberfil.sys")
	if err != nil || !ok {
		return err
	}
	r, err := f.file(n)
	if err != nil {
		return err
	}
	a, err := f.attribute(r, ntfsData)
	if err != nil {
		return err
	}
	if a == nil || a[8] == 0 {
		return nil // too short to have anything
	}
	runs, size, err := f.runs(r, ntfsData)
	if err != nil || size < 4096 {
		return err
	}
	b := make([]byte, 4)
	if err := f.read(runs, b, 0); err != nil {
		return err
	}
	switch strings.ToLower(string(b)) {
	case "\x00\x00\x00\x00", "wake", "rstr":
		return nil
	}
	return refuse("its system is hibernated (hiberfil.sys), or was shut down to start fast")
}

const maxIndexBlocks = 1 << 14 // of the root directory

// lookup finds a file in the root directory, by its name in any case. All of the directory is
// looked at, also what is not in use any more.
func (f *ntfsFS) lookup(name string) (record uint64, ok bool, err error) {
	r, err := f.file(ntfsRoot)
	if err != nil {
		return 0, false, err
	}
	a, err := f.attribute(r, ntfsIndexRoot)
	if err != nil {
		return 0, false, err
	}
	if a == nil {
		return 0, false, refuse("its root directory has no index")
	}
	root, err := resident(a)
	if err != nil {
		return 0, false, err
	}
	if len(root) < 0x20 {
		return 0, false, refuse("its root directory has no index")
	}
	if record, ok, err = entries(root[0x10:], name); ok || err != nil {
		return record, ok, err
	}
	if a, err = f.attribute(r, ntfsIndexAllocation); a == nil || err != nil {
		return 0, false, err
	}
	runs, size, err := f.runs(r, ntfsIndexAllocation)
	if err != nil {
		return 0, false, err
	}
	if size/f.index > maxIndexBlocks {
		return 0, false, refuse("its root directory has %d bytes", size)
	}
	b := make([]byte, f.index)
	for off := int64(0); off+f.index <= size; off += f.index {
		if err := f.read(runs, b, off); err != nil {
			return 0, false, err
		}
		if string(b[:4]) != "INDX" {
			continue // never used
		}
		if err := fixUp(b, "INDX"); err != nil {
			return 0, false, err
		}
		if record, ok, err = entries(b[0x18:], name); ok || err != nil {
			return record, ok, err
		}
	}
	return 0, false, nil
}

// entries looks for a name behind the header of an index.
func entries(b []byte, name string) (record uint64, ok bool, err error) {
	at, end := int(le.Uint32(b)), int(le.Uint32(b[4:]))
	if at < 0x10 || end > len(b) {
		return 0, false, refuse("a block of its root directory has entries from %d to %d", at, end)
	}
	for at+0x10 <= end {
		e := b[at:end]
		n, key, flags := int(le.Uint16(e[8:])), int(le.Uint16(e[10:])), le.Uint16(e[12:])
		if n < 0x10 || n > len(e) || 0x10+key > n {
			return 0, false, refuse("an entry of its root directory has %d bytes", n)
		}
		if flags&2 != 0 {
			return 0, false, nil
		}
		if k := e[0x10:][:key]; key >= 0x42 && 0x42+2*int(k[0x40]) <= key {
			var chars []uint16
			for i := range int(k[0x40]) {
				chars = append(chars, le.Uint16(k[0x42+2*i:]))
			}
			if strings.EqualFold(string(utf16.Decode(chars)), name) {
				return le.Uint64(e) & (1<<48 - 1), true, nil
			}
		}
		at += n
	}
	return 0, false, nil
}
