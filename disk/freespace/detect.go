// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package freespace

import (
	"bytes"
	"strings"
)

// kind is a kind of file system. One without read is known by its name alone.
type kind struct {
	name string
	// read collects what is free, and returns the exact name of the file system.
	read func(v *volume, free *spanSet) (string, error)
}

// signature is what tells a kind.
type signature struct {
	at    int
	magic string
	kind  kind
}

// signatures are of what is read, and of what else may be at the beginning of a volume.
// Where two kinds have left theirs it is not known which one it is.
func signatures() []signature {
	return []signature{
		{1024 + 0x38, "\x53\xEF", kind{"ext", readExt}},
		{0, "XFSB", kind{name: "xfs"}},
		{3, "NTFS    ", kind{"ntfs", readNTFS}},
		{0, "LUKS\xBA\xBE", kind{name: "LUKS"}},
		{0x10040, "_BHRfS_M", kind{name: "btrfs"}},
		{4096 - 10, "SWAPSPACE2", kind{name: "swap"}},
		{512, "LABELONE", kind{name: "LVM"}},
		{1024, "\x10\x20\xF5\xF2", kind{name: "f2fs"}},
		{0, "\xFC\x4E\x2B\xA9", kind{name: "md"}},
		{4096, "\xFC\x4E\x2B\xA9", kind{name: "md"}},
		{3, "-FVE-FS-", kind{name: "BitLocker"}},
		{3, "ReFS\x00\x00\x00\x00", kind{name: "refs"}},
		{3, "EXFAT   ", kind{name: "exfat"}},
		{0x8001, "CD001", kind{name: "iso9660"}},
		{0x10034, "ReIsEr", kind{name: "reiserfs"}},
		{32, "NXSB", kind{name: "apfs"}},
		{1024, "H+\x00\x04", kind{name: "hfsplus"}},
	}
}

// detect tells what a volume is by its signatures.
func detect(v *volume) (kind, error) {
	const room = 0x10040 + 8
	b, err := v.peek(room)
	if err != nil {
		return kind{}, err
	}
	var found []kind
	for _, s := range signatures() {
		if s.at+len(s.magic) <= len(b) && bytes.HasPrefix(b[s.at:], []byte(s.magic)) {
			found = append(found, s.kind)
		}
	}
	if isFAT(b) {
		found = append(found, kind{"fat", readFAT})
	}
	switch len(found) {
	case 0:
		return kind{}, nil
	case 1:
		return found[0], nil
	}
	var names []string
	for _, k := range found {
		names = append(names, k.name)
	}
	return kind{}, refuse("it has the signatures of %s", strings.Join(names, " and "))
}
