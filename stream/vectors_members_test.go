// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"archive/tar"
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/stream/codec"
)

// forging returns a maker of the base stream with an edit.
func forging(edit func(f *forge)) func(tb testing.TB) []byte {
	return func(tb testing.TB) []byte {
		f := base(tb)
		edit(f)
		return f.build()
	}
}

// cutting returns a maker of the base stream cut at an offset that at finds.
func cutting(at func(b []byte, res *Result) int64) func(tb testing.TB) []byte {
	return func(tb testing.TB) []byte {
		b, res := baseStream(tb, codec.None)
		return b[:at(b, res)]
	}
}

func tarOffset(name string, plus int64) func([]byte, *Result) int64 {
	return func(_ []byte, res *Result) int64 {
		for _, m := range res.Index.Members {
			if m.Name == name {
				return m.Tar + plus
			}
		}
		return -1
	}
}

// otherBackup is a later backup of the VM, its disk changed.
func otherBackup(tb testing.TB) *forge {
	o := testOptions(codec.None)
	o.ID, o.Created = "backup-0002", testTime.AddDate(0, 0, 1)
	b, res := writeStream(tb, []Disk{memDisk("disk", vecDisk(4<<20+512, 1, 2, 64))}, []File{memFile("vm.vmx", []byte("displayName = \"vm\"\n"))}, o)
	return take(tb, b, res)
}

// badMembers are members that are missing, in the wrong place, or not ours.
func badMembers() map[string]badVector {
	fromEnd := func(n int64) func([]byte, *Result) int64 {
		return func(b []byte, _ *Result) int64 { return int64(len(b)) - n }
	}
	drop := func(name string) func(f *forge) {
		return func(f *forge) { i := f.at(name); f.members = slices.Delete(f.members, i, i+1) }
	}
	double := func(name string) func(f *forge) {
		return func(f *forge) { i := f.at(name); f.members = slices.Insert(f.members, i, f.members[i]) }
	}
	from := func(name string) func(f *forge) {
		return func(f *forge) {
			o := otherBackup(f.tb)
			f.members[f.at(name)] = o.members[o.at(name)]
		}
	}
	cases := map[string]badVector{
		"empty":             {about: "no byte at all", make: func(testing.TB) []byte { return nil }, expect: expectTruncated},
		"not-a-stream":      {about: "text", make: func(testing.TB) []byte { return bytes.Repeat([]byte("hello world\n"), 100) }},
		"only-zeros":        {about: "a tar without members", make: func(testing.TB) []byte { return make([]byte, 10240) }},
		"no-end-blocks":     {about: "cut before the two zero blocks", make: cutting(fromEnd(1024)), expect: expectTruncated},
		"one-end-block":     {about: "cut before the last zero block", make: cutting(fromEnd(512)), expect: expectTruncated},
		"last-byte-missing": {about: "cut by one byte", make: cutting(fromEnd(1)), expect: expectTruncated},
		"cut-opening":       {about: "cut in the opening record", make: cutting(tarOffset(OpeningName, 700)), expect: expectTruncated},
		"cut-file":          {about: "cut in a file", make: cutting(tarOffset("vm.vmx", 515)), expect: expectTruncated},
		"cut-header":        {about: "cut in a tar header", make: cutting(tarOffset(firstExtent, 100)), expect: expectTruncated},
		"cut-between":       {about: "cut between two members", make: cutting(tarOffset(emptyExtent, 0)), expect: expectTruncated},
		"cut-tables":        {about: "cut in the tables of an extent", make: cutting(tarOffset(firstExtent, 512+2000)), expect: expectTruncated},
		"cut-grain":         {about: "cut in a grain", make: cutting(tarOffset(firstExtent, 512+100000)), expect: expectTruncated},
		"cut-descriptor":    {about: "cut in a descriptor", make: cutting(tarOffset(theDescriptor, 600)), expect: expectTruncated},
		"cut-sums":          {about: "cut in SHA256SUMS", make: cutting(tarOffset(SumsName, 600)), expect: expectTruncated},
		"cut-before-index":  {about: "cut before the index: all content is there, the end record is not", make: cutting(tarOffset(SumsName, 1536)), expect: expectTruncated},
		"swapped": {about: "two extents in the other order", make: forging(func(f *forge) {
			i, j := f.at(firstExtent), f.at(lastExtent)
			f.members[i], f.members[j] = f.members[j], f.members[i]
		})},
		"wrong-disk-first": {about: "the descriptor before its extents", make: forging(func(f *forge) {
			i := f.at(theDescriptor)
			d := f.members[i]
			f.members = slices.Insert(slices.Delete(f.members, i, i+1), 2, d)
		})},
		"file-late":          {about: "a file behind the disk", make: forging(func(f *forge) { m := f.members[1]; f.members = append(slices.Delete(f.members, 1, 2), m) })},
		"dropped-extent":     {about: "an extent is missing", make: forging(drop(firstExtent))},
		"dropped-empty":      {about: "an empty extent is missing", make: forging(drop(emptyExtent))},
		"dropped-last":       {about: "the last extent is missing", make: forging(drop(lastExtent))},
		"dropped-descriptor": {about: "the descriptor is missing", make: forging(drop(theDescriptor))},
		"dropped-opening":    {about: "the opening record is missing", make: forging(drop(OpeningName))},
		"dropped-file":       {about: "a file is cut out of a whole stream", make: cutOut("vm.vmx")},
		"dropped-sums":       {about: "SHA256SUMS is cut out of a whole stream", make: cutOut(SumsName)},
		"doubled-extent":     {about: "an extent twice", make: forging(double(firstExtent))},
		"doubled-file":       {about: "a file twice", make: forging(double("vm.vmx"))},
		"doubled-opening":    {about: "the opening record twice", make: forging(double(OpeningName))},
		"unlisted-file": {about: "a file that the opening record does not list", make: forging(func(f *forge) {
			f.members = slices.Insert(f.members, 2, forged{"x.log", f.header(&member{name: "vm/x.log", size: 1, mode: fileMode, modTime: testTime}), []byte("x")})
		})},
		"other-extent": {about: "an extent of another backup of the VM", make: func(tb testing.TB) []byte {
			return splice(tb, firstExtent)
		}},
		"other-extent-same-content": {about: "an extent of another backup with the same content: only its header differs", make: func(tb testing.TB) []byte {
			return splice(tb, lastExtent)
		}},
		"other-opening":    {about: "the opening record of another backup, digests made to fit", make: forging(from(OpeningName))},
		"other-descriptor": {about: "the descriptor of another backup, digests made to fit", make: forging(from(theDescriptor))},
		"trailing-zeros":   {about: "a third block of zeros at the end", make: trailing(make([]byte, 512))},
		"trailing-byte":    {about: "one byte behind the end", make: trailing([]byte{0})},
		"trailing-text":    {about: "text behind the end", make: trailing([]byte("garbage"))},
		"two-streams":      {about: "the stream twice", make: func(tb testing.TB) []byte { b, _ := baseStream(tb, codec.None); return append(bytes.Clone(b), b...) }},
		"flipped-grain":    {about: "a bit of a grain is flipped", make: flipping(firstExtent, 512+65536+5)},
		"flipped-file":     {about: "a bit of a file is flipped", make: flipping("vm.vmx", 515)},
		"flipped-padding":  {about: "a bit of what fills up a file's last block is flipped", make: flipping("vm.vmx", 1000)},
		"early-end": {about: "zero blocks in the middle", make: func(tb testing.TB) []byte {
			b, res := baseStream(tb, codec.None)
			at := tarOffset(emptyExtent, 0)(b, res)
			return slices.Concat(b[:at], make([]byte, 1024), b[at:])
		}},
	}
	return cases
}

// splice puts a member of another backup, header and all, in place of ours.
func splice(tb testing.TB, name string) []byte {
	b, res := baseStream(tb, codec.None)
	at := tarOffset(name, 0)(b, res)
	o := otherBackup(tb)
	m := o.members[o.at(name)]
	copy(b[at:], m.header)
	copy(b[at+512:], m.body)
	return b
}

func cutOut(name string) func(tb testing.TB) []byte {
	return func(tb testing.TB) []byte {
		b, res := baseStream(tb, codec.None)
		at := tarOffset(name, 0)(b, res)
		m := res.Index.Members[slices.IndexFunc(res.Index.Members, func(m *MemberRecord) bool { return m.Name == name })]
		return slices.Delete(b, int(at), int(at+512+m.Size+padding(m.Size)))
	}
}

func flipping(name string, plus int64) func(tb testing.TB) []byte {
	return func(tb testing.TB) []byte {
		b, res := baseStream(tb, codec.None)
		b[tarOffset(name, plus)(b, res)] ^= 4
		return b
	}
}

func trailing(t []byte) func(tb testing.TB) []byte {
	return func(tb testing.TB) []byte { b, _ := baseStream(tb, codec.None); return append(b, t...) }
}

// badHeaders are tar headers that a tar reads and a stream does not have.
func badHeaders() map[string]badVector {
	of := func(edit func(h []byte) []byte) func(tb testing.TB) []byte {
		return forging(func(f *forge) { m := &f.members[f.at(firstExtent)]; m.header = edit(m.header) })
	}
	field := func(at int, s string) func(tb testing.TB) []byte {
		return of(func(h []byte) []byte { copy(h[at:], s); return checksum(h) })
	}
	pax := func(records string, h func([]byte)) func(tb testing.TB) []byte {
		return of(func(old []byte) []byte {
			x := make([]byte, 1024)
			copy(x, old[:512])
			copy(x, "vm/PaxHeaders.0/x\x00")
			copy(x[124:], fmt.Sprintf("%011o\x00", len(records)))
			x[156] = tar.TypeXHeader
			checksum(x)
			copy(x[512:], records)
			if h != nil {
				h(old)
				checksum(old)
			}
			return append(x, old...)
		})
	}
	rec := func(key, value string) string {
		n := len(key) + len(value) + 3
		n += len(fmt.Sprint(n + 2))
		return fmt.Sprintf("%d %s=%s\n", n, key, value)
	}
	return map[string]badVector{
		"header-checksum":  {about: "a wrong checksum", make: of(func(h []byte) []byte { h[148] ^= 1; return h })},
		"header-gnu-magic": {about: "the magic of GNU tar", make: field(257, "ustar  \x00")},
		"header-v7":        {about: "no magic", make: field(257, "\x00\x00\x00\x00\x00\x00\x00\x00")},
		"header-octal":     {about: "a mode with spaces instead of zeros", make: field(100, "   600 \x00")},
		"header-owner":     {about: "an owner", make: field(265, "root")},
		"header-uid":       {about: "a user id", make: field(108, "0001750\x00")},
		"header-mode": {about: "another mode, checksum right", make: func(tb testing.TB) []byte {
			b, res := baseStream(tb, codec.None)
			h := b[tarOffset(firstExtent, 0)(b, res):][:512]
			copy(h[100:], "0000666\x00")
			checksum(h)
			return b
		}},
		"header-time": {about: "another time, checksum right", make: func(tb testing.TB) []byte {
			b, res := baseStream(tb, codec.None)
			h := b[tarOffset("vm.vmx", 0)(b, res):][:512]
			copy(h[136:], "14000000000\x00")
			checksum(h)
			return b
		}},
		"header-slack":       {about: "bytes behind the end of the last field", make: field(505, "x")},
		"type-symlink":       {about: "a symbolic link", make: of(func(h []byte) []byte { h[156] = '2'; copy(h[157:], "/etc/passwd"); return checksum(h) })},
		"type-hardlink":      {about: "a hard link", make: of(func(h []byte) []byte { h[156] = '1'; copy(h[157:], "vm/vm.vmx"); return checksum(h) })},
		"type-directory":     {about: "a directory", make: of(func(h []byte) []byte { h[156] = '5'; return checksum(h) })},
		"type-device":        {about: "a device", make: of(func(h []byte) []byte { h[156] = '3'; return checksum(h) })},
		"type-old":           {about: "a NUL as type of a regular file", make: of(func(h []byte) []byte { h[156] = 0; return checksum(h) })},
		"type-gnu-long-name": {about: "a long name as GNU tar has it", make: of(func(h []byte) []byte { h[156] = 'L'; return checksum(h) })},
		"type-global-pax":    {about: "a global pax header", make: of(func(h []byte) []byte { h[156] = 'g'; return checksum(h) })},
		"pax-comment":        {about: "a pax record that is not needed", make: pax(rec("comment", "hello"), nil)},
		"pax-path":           {about: "a pax path where the name fits the header", make: pax(rec("path", "vm/"+firstExtent), nil)},
		"pax-size":           {about: "a pax size that overrides the header's", make: pax(rec("size", "196608"), func(h []byte) { copy(h[124:], "00000001000\x00") })},
		"pax-size-huge": {about: "a size of 2^60 bytes", make: func(tb testing.TB) []byte {
			f := base(tb)
			h := f.header(&member{name: "vm/" + firstExtent, size: 1 << 60, mode: diskMode, modTime: testTime})
			return slices.Concat(f.members[0].header, f.members[0].body, make([]byte, padding(int64(len(f.members[0].body)))), h, make([]byte, 4096))
		}},
		"pax-sparse":    {about: "a GNU sparse file", make: pax(rec("GNU.sparse.major", "1")+rec("GNU.sparse.minor", "0")+rec("GNU.sparse.name", "vm/"+firstExtent)+rec("GNU.sparse.realsize", "196608"), nil)},
		"name-other-vm": {about: "a member in another directory", make: of(func(h []byte) []byte { copy(h, "wm/"); return checksum(h) })},
		"name-parent":   {about: "a member outside the directory", make: of(func(h []byte) []byte { copy(h, "vm/../x\x00"); return checksum(h) })},
		"name-absolute": {about: "an absolute name", make: of(func(h []byte) []byte { copy(h, "/vm/disk-s000001.vmdk\x00"); return checksum(h) })},
		"name-number":   {about: "an extent with another number", make: of(func(h []byte) []byte { copy(h, "vm/disk-s000002.vmdk\x00"); return checksum(h) })},
		"name-digits":   {about: "an extent with fewer digits", make: of(func(h []byte) []byte { clear(h[:100]); copy(h, "vm/disk-s001.vmdk"); return checksum(h) })},
		"opening-huge": {about: "an opening record of 2^33 bytes", make: func(tb testing.TB) []byte {
			f := base(tb)
			return append(f.header(&member{name: "vm/" + OpeningName, size: 1 << 33, mode: fileMode, modTime: testTime}), make([]byte, 4096)...)
		}},
	}
}

// checksum makes a header's checksum right.
func checksum(h []byte) []byte {
	copy(h[148:], strings.Repeat(" ", 8))
	sum := 0
	for _, c := range h[:512] {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}
