// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"errors"

	"github.com/vmstream/vmstream/disk"
)

// DescriptorFile is a descriptor and where its text lies.
type DescriptorFile struct {
	Descriptor *Descriptor
	Text       []byte // as it stands in the file, without what fills an embedded one up
	Embedded   bool   // inside a hosted sparse extent

	// OffsetBytes is where the text begins in the file, RoomBytes what it may
	// take there: 0 if the file is nothing but a descriptor.
	OffsetBytes, RoomBytes int64
}

// ReadDescriptor reads the descriptor in the file at path, which may be a
// hosted sparse extent that holds one, and nothing that it names. A file
// without a descriptor gives an error that wraps [disk.ErrUnknown].
func ReadDescriptor(path string) (*DescriptorFile, error) {
	return ReadDescriptorIn(disk.OS(), path)
}

// ReadDescriptorIn is ReadDescriptor for a file of a tree.
func ReadDescriptorIn(tree disk.Tree, path string) (*DescriptorFile, error) {
	f, err := tree.Open(path)
	if err != nil {
		return nil, err
	}
	d, err := descriptorIn(f)
	return d, errors.Join(err, f.Close())
}

func descriptorIn(f disk.RawFile) (*DescriptorFile, error) {
	kind, _, err := detectFile(f)
	if err != nil {
		return nil, err
	}
	switch kind {
	case kindDescriptor:
		return textDescriptor(f)
	case kindHosted:
		return embeddedDescriptor(f)
	}
	return nil, noDescriptor(f)
}

func noDescriptor(f disk.RawFile) error {
	return &disk.FormatError{File: f.Name(), Format: descriptorFormat, Offset: -1, Err: disk.ErrUnknown, Detail: "the file has none"}
}

func textDescriptor(f disk.RawFile) (*DescriptorFile, error) {
	d, err := readDescriptorFile(f) // refuses what is too large
	if err != nil {
		return nil, err
	}
	text := make([]byte, f.Size())
	if err := disk.ReadFull(f, text, 0); err != nil {
		return nil, err
	}
	text, _, _ = bytes.Cut(text, []byte{0})
	return &DescriptorFile{Descriptor: d, Text: text}, nil
}

func embeddedDescriptor(f disk.RawFile) (*DescriptorFile, error) {
	src := sourceOf(f)
	src.format = sparseFormat
	h, err := loadSparseHeader(src, 0)
	if err != nil {
		return nil, err
	}
	b, err := h.embeddedDescriptor(src)
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, noDescriptor(f)
	}
	d, err := parseDescriptorOf(f.Name(), b)
	if err != nil {
		return nil, err
	}
	text, _, _ := bytes.Cut(b, []byte{0})
	return &DescriptorFile{
		Descriptor: d, Text: text, Embedded: true,
		OffsetBytes: int64(h.descriptorOffset) * disk.SectorSize, RoomBytes: int64(len(b)),
	}, nil
}
