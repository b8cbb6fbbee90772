// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"errors"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// fileKind is what the first bytes of a file say that it is.
type fileKind int

const (
	kindNone fileKind = iota // nothing that we know: maybe a raw disk
	kindRaw                  // raw, for a reason other than its bytes
	kindDescriptor
	kindHosted
	kindCOWD
	kindSESparse
	kindRefused // something that is no disk, or none that can be read
)

// detectBytes is how much of a file detect wants to see.
const detectBytes = 64 << 10

// detect looks at the beginning of a file that an operator, a configuration or
// a descriptor names. Bytes that a guest may have written are never shown to
// it, unless an operator names a raw disk without saying so. For kindRefused,
// why tells what it is.
func detect(b []byte) (kind fileKind, why string) {
	for _, m := range []struct {
		magic string
		kind  fileKind
		why   string
	}{
		{"KDMV", kindHosted, ""},
		{"COWD", kindCOWD, ""},
		{"\xbe\xba\xfe\xca\x00\x00\x00\x00", kindSESparse, ""},
		{"kdmv", kindRefused, "an unfinished output of open-vmdk"},
		{"\xa2\x72\x19\xf6", kindRefused, "a change tracking file, not a disk"},
		{"\xd0\xbe\xd2\xbe", kindRefused, "a suspend or snapshot state, not a disk"},
		{"\xd1\xba\xd1\xba", kindRefused, "a suspend or snapshot state, not a disk"},
		{"\xd2\xbe\xd2\xbe", kindRefused, "a suspend or snapshot state, not a disk"},
		{"\xd3\xbe\xd3\xbe", kindRefused, "a suspend or snapshot state, not a disk"},
	} {
		if bytes.HasPrefix(b, []byte(m.magic)) {
			return m.kind, m.why
		}
	}
	return detectText(b)
}

// detectText recognises a descriptor by its first comment or by its first
// line that is none, even where the parser then refuses it: such a file must
// not be taken for a raw disk.
func detectText(b []byte) (fileKind, string) {
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
	for first := true; len(b) > 0; first = false {
		line, rest, _ := bytes.Cut(b, []byte{'\n'})
		b = rest
		s := strings.ToLower(strings.Trim(string(line), " \t\r"))
		switch {
		case strings.Contains(s, "\x00"):
			return kindNone, ""
		case first && strings.HasPrefix(s, "# disk descriptorfile"):
			return kindDescriptor, ""
		case first && strings.HasPrefix(s, "# plain disk"), strings.HasPrefix(s, "drivetype "):
			return kindRefused, "a plain disk description (.pln) of GSX Server"
		case s == "" || s[0] == '#':
			continue
		}
		value, ok := strings.CutPrefix(s, "version")
		if ok && strings.HasPrefix(strings.TrimLeft(value, " \t"), "=") {
			return kindDescriptor, ""
		}
		return kindNone, ""
	}
	return kindNone, ""
}

// detectFile looks at the beginning of a file.
func detectFile(f disk.RawFile) (fileKind, string, error) {
	b := make([]byte, min(detectBytes, f.Size()))
	if err := disk.ReadFull(f, b, 0); err != nil {
		return kindNone, "", err
	}
	kind, why := detect(b)
	return kind, why, nil
}

// readDescriptorFile reads and parses a file that is nothing but a descriptor.
func readDescriptorFile(f disk.RawFile) (*Descriptor, error) {
	if f.Size() > MaxDescriptorBytes {
		return nil, &disk.FormatError{
			File: f.Name(), Format: descriptorFormat, Field: "length", Offset: -1, Err: disk.ErrCorrupt,
			Detail: "it begins like a descriptor, but is larger than 1 MiB; if it is a raw disk, say --source-format raw",
		}
	}
	b := make([]byte, f.Size())
	if err := disk.ReadFull(f, b, 0); err != nil {
		return nil, err
	}
	if i := bytes.IndexByte(b, 0); i >= 0 && !leftOver(b[:i], b[i:]) {
		return nil, &disk.FormatError{File: f.Name(), Format: descriptorFormat, Field: "text", Offset: int64(i), Err: disk.ErrCorrupt, Detail: "a NUL inside the text"}
	}
	return parseDescriptorOf(f.Name(), b)
}

// leftOver reports whether what follows the text's end is nothing: zeros, or
// the end of a text that was longer. QEMU writes a new CID over the old one,
// and if it has two or more digits less, the last bytes of the old text stay
// behind the NUL (seen with qemu-img 7.2, with one disk in 256).
func leftOver(text, rest []byte) bool {
	rest = bytes.Trim(rest, "\x00")
	return len(rest) < len("ffffffff") && bytes.HasSuffix(text, rest)
}

// parseDescriptorOf parses a descriptor and puts the file's name into errors.
func parseDescriptorOf(path string, b []byte) (*Descriptor, error) {
	d, err := ParseDescriptor(b)
	var fe *disk.FormatError
	if errors.As(err, &fe) {
		fe.File = path
	}
	return d, err
}

// refuseDescriptor refuses descriptors of disks whose content is not in their files.
func refuseDescriptor(path string, d *Descriptor) error {
	refuse := func(field, detail string) error {
		return &disk.FormatError{File: path, Format: descriptorFormat, Field: field, Offset: -1, Err: disk.ErrUnsupported, Detail: detail}
	}
	for _, list := range [][]Entry{d.Header, d.DDB} {
		for _, e := range list {
			key := strings.TrimPrefix(strings.ToLower(e.Key), "ddb.")
			switch {
			case strings.HasPrefix(key, "encryption"):
				return refuse(e.Key, "the disk is encrypted; decrypt it with the product that wrote it")
			case key == "isnativesnapshot" && strings.EqualFold(e.Value, "yes"):
				return refuse(e.Key, "the disk is a snapshot inside a storage array; it cannot be read from its files")
			}
		}
	}
	for _, e := range d.Extents {
		switch e.Type {
		case ExtentVMFSRaw, "VMFSRAWRDM":
			return refuse("extent "+e.Name, "a raw device: name the device instead of the descriptor")
		case "VSANSPARSE":
			return refuse("extent "+e.Name, "a vSAN delta cannot be read outside its cluster; consolidate the disk or export it")
		case ExtentFlat, ExtentSparse, ExtentZero, ExtentVMFS, ExtentVMFSSparse, ExtentSESparse, ExtentVMFSRDM:
		default:
			return refuse("extent "+e.Name, "extents of type "+e.Type+" are not known")
		}
		if e.Access == AccessNone && e.Type != ExtentZero {
			return refuse("extent "+e.Name, "the extent has no access, so its content must not be read")
		}
	}
	return nil
}

// cowdParentOf returns the parent's name in the header of a COWD extent
// without its directories or volume.
func cowdParentOf(h *cowdHeader) string {
	name := h.parentName
	if i := strings.LastIndexAny(name, `/\:`); i >= 0 {
		name = name[i+1:]
	}
	return name
}
