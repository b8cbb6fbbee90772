// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// unwritten is the content id of a link that was created and never written.
const unwritten = vmdk.Unwritten

// newCID returns a random content id that means nothing special.
func newCID() uint32 {
	for {
		var b [4]byte
		_, _ = rand.Read(b[:]) // never fails, see crypto/rand
		if id := binary.LittleEndian.Uint32(b[:]); id != 0 && id != vmdk.NoParent && id != unwritten {
			return id
		}
	}
}

// newLongContentID returns a random 128-bit content id that ends in the short one.
func newLongContentID(cid uint32) string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%x%08x", b, cid)
}

const (
	keyCID           = "CID"
	keyParentCID     = "parentCID"
	keyHint          = "parentFileNameHint"
	keyLongContentID = "ddb.longContentID"
	keyChangeTrack   = "changeTrackPath"
)

// editDescriptor returns the text of a descriptor with other values for keys
// that it has. Every other byte stays. A key that is missing is an error, but
// for the long content id, which not all disks have.
func editDescriptor(path string, text []byte, changes map[string]string) ([]byte, error) {
	out := make([]byte, 0, len(text)+256)
	found := map[string]int{}
	for line := range bytes.Lines(text) {
		key, rest, ok := bytes.Cut(line, []byte("="))
		name := strings.ToLower(string(bytes.TrimSpace(key)))
		value, wanted := "", false
		for k, v := range changes {
			if ok && strings.EqualFold(k, name) {
				value, wanted = v, true
			}
		}
		if !wanted {
			out = append(out, line...)
			continue
		}
		found[name]++
		out = append(out, key...)
		out = append(out, '=')
		out = append(out, replaceValue(rest, value)...)
	}
	for k := range changes {
		if n := found[strings.ToLower(k)]; n > 1 || n == 0 && k != keyLongContentID {
			return nil, &disk.FormatError{
				File: path, Format: "vmdk descriptor", Field: k, Offset: -1, Err: disk.ErrCorrupt,
				Detail: fmt.Sprintf("there are %d lines of it, one is expected", n),
			}
		}
	}
	return out, checkEdited(path, out, changes)
}

// replaceValue replaces the value in what follows an equals sign.
func replaceValue(rest []byte, value string) []byte {
	trimmed := bytes.TrimLeft(rest, " \t")
	blanks := rest[:len(rest)-len(trimmed)]
	tail := trimmed[len(bytes.TrimRight(trimmed, " \t\r\n")):]
	if bytes.HasPrefix(trimmed, []byte(`"`)) {
		value = `"` + value + `"`
	}
	return append(append(append([]byte{}, blanks...), value...), tail...)
}

// checkEdited reads the result back: a change that does not read as what was
// meant must not reach a disk.
func checkEdited(path string, text []byte, changes map[string]string) error {
	d, err := vmdk.ParseDescriptor(text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	reads := map[string]string{
		keyCID: cidString(d.CID), keyParentCID: cidString(d.ParentCID),
		keyHint: d.ParentFileNameHint, keyLongContentID: d.DDBValue(keyLongContentID),
	}
	for k, v := range changes {
		if _, ok := reads[k]; !ok {
			reads[k] = d.DDBValue(k)
		}
		if reads[k] != v && (k != keyLongContentID || reads[k] != "") {
			return &disk.FormatError{
				File: path, Format: "vmdk descriptor", Field: k, Offset: -1, Err: disk.ErrMismatch,
				Detail: fmt.Sprintf("reads %q after the change, not %q", reads[k], v),
			}
		}
	}
	return nil
}

func cidString(cid uint32) string { return fmt.Sprintf("%08x", cid) }

// putDescriptor gives the level at path a new text of its descriptor: a file of
// its own is replaced atomically, an embedded one is overwritten.
func putDescriptor(fsys FS, path string, old *vmdk.DescriptorFile, text []byte) error {
	if bytes.Equal(text, old.Text) {
		return nil
	}
	if !old.Embedded {
		return ReplaceFile(fsys, path, text)
	}
	return overwrite(fsys, path, old, text)
}

// overwrite writes only the bytes that differ: content ids have a fixed length,
// so that mostly a single sector changes.
func overwrite(fsys FS, path string, old *vmdk.DescriptorFile, text []byte) error {
	if int64(len(text)) > old.RoomBytes {
		return &disk.FormatError{
			File: path, Format: "vmdk descriptor", Offset: old.OffsetBytes, Err: disk.ErrUnsupported,
			Detail: fmt.Sprintf("the new text has %d bytes, there is room for %d", len(text), old.RoomBytes),
		}
	}
	before := make([]byte, old.RoomBytes)
	after := make([]byte, old.RoomBytes)
	copy(before, old.Text)
	copy(after, text)
	f, err := fsys.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // everything is synced
	for i := 0; i < len(after); i += disk.SectorSize {
		end := min(i+disk.SectorSize, len(after))
		if bytes.Equal(before[i:end], after[i:end]) {
			continue
		}
		if _, err := f.WriteAt(after[i:end], old.OffsetBytes+int64(i)); err != nil {
			return err
		}
	}
	return f.Sync()
}

// alias returns a descriptor for the files of the level parent that can take
// the place of its child's: the same extents and the same parent, seen from
// the directory of the child, with the child's content id. While both exist, a
// reader that comes through either finds the same content.
func alias(child, parent *level) ([]byte, error) {
	d := *parent.desc.Descriptor
	dir, own := filepath.Dir(child.path), filepath.Dir(parent.path)
	seen := func(name string) (string, error) {
		name = filepath.FromSlash(strings.ReplaceAll(name, `\`, "/"))
		if filepath.IsAbs(name) || dir == own {
			return name, nil
		}
		return filepath.Rel(dir, filepath.Join(own, name))
	}
	d.CID = child.desc.Descriptor.CID
	d.Extents = append([]vmdk.Extent{}, d.Extents...)
	for i := range d.Extents {
		e := &d.Extents[i]
		if parent.desc.Embedded {
			e.Name = filepath.Base(parent.path) // whatever it was called when it was made
		}
		if e.Type == vmdk.ExtentZero {
			continue
		}
		var err error
		if e.Name, err = seen(e.Name); err != nil {
			return nil, err
		}
	}
	if d.ParentFileNameHint != "" {
		var err error
		if d.ParentFileNameHint, err = seen(d.ParentFileNameHint); err != nil {
			return nil, err
		}
	}
	if parent.desc.Embedded {
		d.CreateType = vmdk.TypeTwoGbSparse // a file of its own names the extents
	}
	b, err := d.Marshal()
	if err != nil {
		return nil, fmt.Errorf("%s: its descriptor cannot be written again: %w", parent.path, err)
	}
	return b, nil
}
