// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"testing"

	"github.com/vmstream/vmstream/stream/codec"
	"github.com/vmstream/vmstream/vmdk"
)

// badExtents are extents that VMDK allows, or nearly, and a stream does not.
func badExtents() map[string]badVector {
	in := func(name string, edit func(b []byte)) func(tb testing.TB) []byte {
		return forging(func(f *forge) { f.change(name, func(b []byte) []byte { edit(b); return b }) })
	}
	first := func(edit func(b []byte)) func(tb testing.TB) []byte { return in(firstExtent, edit) }
	whole := func(name string, edit func(b []byte) []byte) func(tb testing.TB) []byte {
		return forging(func(f *forge) { f.change(name, edit) })
	}
	both := func(i int, v uint32) func(tb testing.TB) []byte {
		return first(func(b []byte) { put32(gt(b), i*4, v); put32(rgt(b), i*4, v) })
	}
	put64 := func(at int, v uint64) func(tb testing.TB) []byte {
		return first(func(b []byte) { binary.LittleEndian.PutUint64(b[at:], v) })
	}
	return map[string]badVector{
		"extent-magic":         {about: "no magic", make: first(func(b []byte) { b[0] = 'X' })},
		"extent-version":       {about: "version 2 without zero grains", make: first(func(b []byte) { put32(b, 4, 2) })},
		"extent-version-3":     {about: "version 3", make: first(func(b []byte) { put32(b, 4, 3) })},
		"extent-zero-flag":     {about: "the flag of zero grains, but there are none", make: first(func(b []byte) { put32(b, 4, 2); put32(b, 8, 7) })},
		"extent-compressed":    {about: "the flags of a compressed extent", make: first(func(b []byte) { put32(b, 8, 0x30003); b[77] = 1 })},
		"extent-flags":         {about: "an unknown flag", make: first(func(b []byte) { put32(b, 8, 0x103) })},
		"extent-capacity-huge": {about: "a capacity of 2^60 sectors", make: put64(12, 1<<60)},
		"extent-capacity-0":    {about: "a capacity of 0", make: put64(12, 0)},
		"extent-capacity-more": {about: "a capacity of one sector more", make: put64(12, 2049)},
		"extent-grain-size":    {about: "grains of 4 KiB", make: put64(20, 8)},
		"extent-descriptor":    {about: "an embedded descriptor", make: put64(28, 1)},
		"extent-table-size":    {about: "tables of 1024 entries", make: first(func(b []byte) { put32(b, 44, 1024) })},
		"extent-gd-offset":     {about: "a grain directory elsewhere", make: put64(56, 1<<40)},
		"extent-gd-at-end":     {about: "a grain directory at the end", make: put64(56, 1<<64-1)},
		"extent-overhead":      {about: "a larger overhead", make: put64(64, 256)},
		"extent-unclean":       {about: "the mark of an unclean shutdown", make: first(func(b []byte) { b[72] = 1 })},
		"extent-newline":       {about: "newlines translated by a text transfer", make: first(func(b []byte) { b[73] = '\r' })},
		"extent-header-slack":  {about: "bytes behind the header's fields", make: first(func(b []byte) { b[500] = 1 })},
		"extent-rgd":           {about: "the redundant directory differs", make: first(func(b []byte) { put32(b, 512, 7) })},
		"extent-gd":            {about: "the directory differs", make: first(func(b []byte) { put32(b, 6*512, 2) })},
		"extent-gd-null":       {about: "a directory without its table", make: first(func(b []byte) { put32(b, 6*512, 0); put32(b, 512, 0) })},
		"extent-rgt":           {about: "a redundant table differs", make: first(func(b []byte) { put32(rgt(b), 0, 0) })},
		"extent-gt":            {about: "a table differs from its redundant copy", make: first(func(b []byte) { put32(gt(b), 0, 0) })},
		"extent-gte-order": {about: "grains in another order", make: first(func(b []byte) {
			for _, t := range [][]byte{gt(b), rgt(b)} {
				put32(t, 0, 256)
				put32(t, 8, 128)
			}
		})},
		"extent-gte-shared":   {about: "two grains in one place", make: both(2, 128)},
		"extent-gte-outside":  {about: "a grain behind the end of the file", make: both(2, 1<<31)},
		"extent-gte-metadata": {about: "a grain in the metadata", make: both(0, 1)},
		"extent-gte-missing":  {about: "a grain that no table has", make: both(2, 0)},
		"extent-gte-more":     {about: "a table with a grain that is not there", make: both(3, 384)},
		"extent-gte-behind":   {about: "an entry behind the capacity", make: both(16, 384)},
		"extent-gte-zero":     {about: "entry 1 without its flag", make: both(1, 1)},
		"extent-padding":      {about: "bytes between tables and grains", make: first(func(b []byte) { b[65535] = 1 })},
		"extent-grain-half":   {about: "half a grain at the end", make: whole(firstExtent, func(b []byte) []byte { return b[:len(b)-32768] })},
		"extent-grain-more":   {about: "a grain more at the end", make: whole(firstExtent, func(b []byte) []byte { return append(b, make([]byte, 65536)...) })},
		"extent-tiny":         {about: "an extent of one sector", make: whole(firstExtent, func(b []byte) []byte { return b[:512] })},
		"extent-none":         {about: "an extent of no bytes", make: whole(firstExtent, func([]byte) []byte { return nil })},
		"extent-no-grain": {about: "a packed extent without grains", make: whole(firstExtent, func([]byte) []byte {
			b := make([]byte, vmdk.SegmentOverhead(1<<20))
			vmdk.PutSegment(b, 1<<20, make([]vmdk.GrainState, 16))
			return b
		})},
		"extent-last-grain": {about: "bytes behind the end of the disk", make: in(lastExtent, func(b []byte) { b[len(b)-1] = 1 })},
		"empty-entry":       {about: "an entry in the tables of an empty extent", make: in(emptyExtent, func(b []byte) { put32(gt(b), 4, 128) })},
		"empty-some-zero": {about: "an empty extent that is zero in parts", make: whole(emptyExtent, func([]byte) []byte {
			b, _ := io.ReadAll(vmdk.EmptySegment(3<<20, vmdk.GrainZero))
			put32(gt(b), 0, 0)
			put32(rgt(b), 0, 0)
			return b
		})},
		"empty-padding": {about: "bytes at the end of an empty extent", make: in(emptyExtent, func(b []byte) { b[len(b)-1] = 1 })},
		"empty-longer":  {about: "an empty extent with a grain behind it", make: whole(emptyExtent, func(b []byte) []byte { return append(b, make([]byte, 65536)...) })},
		"empty-part":    {about: "an empty extent that ends inside a segment", make: whole(emptyExtent, func([]byte) []byte { b, _ := io.ReadAll(vmdk.EmptySegment(3<<20-65536, vmdk.GrainAbsent)); return b })},
		"empty-beyond":  {about: "an empty extent that reaches behind the disk", make: whole(emptyExtent, func([]byte) []byte { b, _ := io.ReadAll(vmdk.EmptySegment(16<<30, vmdk.GrainAbsent)); return b })},
		"descriptor-line": {about: "an extent line is missing", make: whole(theDescriptor, func(b []byte) []byte {
			i := bytes.Index(b, []byte("RW "))
			return slices.Delete(b, i, i+bytes.IndexByte(b[i:], '\n')+1)
		})},
		"descriptor-path": {about: "a descriptor that names a file elsewhere", make: whole(theDescriptor, func(b []byte) []byte {
			return bytes.Replace(b, []byte(firstExtent), []byte("/../../../passwd!"), 1)
		})},
		"descriptor-cid": {about: "another CID", make: whole(theDescriptor, func(b []byte) []byte { b[bytes.Index(b, []byte("CID="))+4] ^= 1; return b })},
	}
}

// badCompressed is damage that only the compressed layer has.
func badCompressed() map[string]badVector {
	cases := map[string]badVector{}
	for _, c := range codecNames()[1:] {
		spec := codec.Spec{Name: c}
		good := func(tb testing.TB) []byte { b, _ := baseStream(tb, c); return b }
		edited := func(edit func(b []byte) []byte) func(tb testing.TB) []byte {
			return func(tb testing.TB) []byte { return edit(good(tb)) }
		}
		add := func(name, about, expect string, make func(tb testing.TB) []byte) {
			cases[c+"-"+name] = badVector{about: about, make: make, expect: expect, codec: c}
		}
		add("cut", "cut in a frame", expectTruncated, edited(func(b []byte) []byte { return b[:len(b)/2] }))
		add("cut-last-byte", "cut by one byte", expectTruncated, edited(func(b []byte) []byte { return b[:len(b)-1] }))
		add("flipped", "a bit of a frame is flipped", "", edited(func(b []byte) []byte { b[len(b)/2] ^= 1; return b }))
		add("garbage", "text behind the end", "", edited(func(b []byte) []byte { return append(b, "garbage"...) }))
		add("skippable", "a skippable frame behind the end", "", edited(func(b []byte) []byte { return append(b, 0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0) }))
		add("empty-frame", "a frame without content behind the end", "", func(tb testing.TB) []byte {
			e, _ := spec.NewEncoder()
			b, err := e.Encode(nil, nil)
			if err != nil {
				tb.Fatal(err)
			}
			return append(good(tb), b...)
		})
		forgedWith := func(edit func(f *forge)) func(tb testing.TB) []byte {
			return func(tb testing.TB) []byte { f := base(tb); f.spec = spec; edit(f); return f.build() }
		}
		add("frame-offset", "an offset of a frame in the index is wrong", "", forgedWith(func(f *forge) { f.index = func(i *Index) { i.Members[2].Frame++ } }))
		add("frame-length", "a length of a frame in the index is wrong", "", forgedWith(func(f *forge) { f.index = func(i *Index) { i.Members[2].Frames[0]++ } }))
		if !spec.HasPointer() {
			continue
		}
		size := codec.PointerSize
		pointer := func(edit func(p *codec.Pointer)) func(tb testing.TB) []byte {
			return edited(func(b []byte) []byte {
				p, _, _ := codec.ParsePointer(b[len(b)-size:])
				edit(&p)
				return p.Append(b[:len(b)-size])
			})
		}
		add("pointer-missing", "cut before the pointer", "", edited(func(b []byte) []byte { return b[:len(b)-size] }))
		add("pointer-twice", "the pointer twice", "", edited(func(b []byte) []byte { return append(b, b[len(b)-size:]...) }))
		add("pointer-crc", "a checksum of all bytes that is wrong", "", pointer(func(p *codec.Pointer) { p.CRC++ }))
		add("pointer-index", "a wrong offset of the index's frame", "", pointer(func(p *codec.Pointer) { p.IndexFrame++ }))
		add("pointer-tar", "a wrong length of the tar", "", pointer(func(p *codec.Pointer) { p.TarBytes += 512 }))
		add("pointer-index-tar", "a wrong offset of the index in the tar", "", pointer(func(p *codec.Pointer) { p.IndexTar += 512 }))
		add("pointer-damaged", "a bit of the pointer is flipped", "", edited(func(b []byte) []byte { b[len(b)-20] ^= 1; return b }))
		add("inserted", "a skippable frame between two members", "", func(tb testing.TB) []byte {
			b, res := baseStream(tb, c)
			return slices.Insert(b, int(res.Index.Members[2].Frame), 0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0)
		})
	}
	return cases
}
