// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream/codec"
	"github.com/vmstream/vmstream/vmdk"
)

// zeroImage is a disk of any size that reads as zeros without being read.
type zeroImage struct {
	memImage
	size int64
}

func (z *zeroImage) Size() int64 { return z.size }

func (z *zeroImage) Runs(off, n int64) iter.Seq2[disk.Run, error] {
	return func(yield func(disk.Run, error) bool) {
		yield(disk.Run{Offset: off, Length: min(n, z.size-off), Kind: disk.Zero}, nil)
	}
}

func hugeDisk(size int64) Disk {
	d := memDisk("disk", nil)
	d.Image = &zeroImage{size: size}
	d.Record.Geometry = vmdk.GeometryFor(vmdk.DefaultAdapter, size/512)
	return d
}

// badRecords are opening records that a reader has to refuse.
func badRecords() map[string]badVector {
	edit := func(fn func(o map[string]any)) func(tb testing.TB) []byte {
		return forging(func(f *forge) { f.opening(fn) })
	}
	set := func(key string, v any) func(tb testing.TB) []byte {
		return edit(func(o map[string]any) { o[key] = v })
	}
	onDisk := func(key string, v any) func(tb testing.TB) []byte {
		return edit(func(o map[string]any) { openingDisk(o, 0)[key] = v })
	}
	file := func(name string) map[string]any {
		return map[string]any{"name": name, "kind": "log", "size_bytes": 0}
	}
	files := func(names ...string) func(tb testing.TB) []byte {
		return edit(func(o map[string]any) {
			var l []any
			for _, n := range names {
				l = append(l, file(n))
			}
			o["files"] = l
		})
	}
	list := func(key, item string, n int) func(tb testing.TB) []byte {
		return forging(func(f *forge) {
			f.change(OpeningName, func(b []byte) []byte {
				i := bytes.Index(b, []byte(`"`+key+`": [`)) + len(key) + 5
				return slices.Concat(b[:i], []byte(strings.Repeat(item+",", n)), b[i:])
			})
		})
	}
	twice := func(keys ...string) func(tb testing.TB) []byte {
		return edit(func(o map[string]any) {
			d := map[string]any{}
			for k, v := range openingDisk(o, 0) {
				d[k] = v
			}
			for _, k := range keys {
				d[k] = "other.vmdk"
			}
			o["disks"] = append(o["disks"].([]any), d)
		})
	}
	return map[string]badVector{
		"json-syntax":       {about: "an opening record that is no JSON", make: forging(func(f *forge) { f.change(OpeningName, func(b []byte) []byte { return b[:len(b)-3] }) })},
		"json-types":        {about: "a number where text belongs", make: set("id", 5)},
		"format-2":          {about: "a later format", make: set("format", "vmstream/2"), expect: expectUnsupported},
		"format-none":       {about: "no format", make: set("format", ""), expect: expectUnsupported},
		"increment":         {about: "an increment whose directory has no number", make: edit(func(o map[string]any) { o["depth"], o["parent_id"] = 1, "backup-0000" })},
		"increment-orphan":  {about: "an increment on no backup", make: edit(func(o map[string]any) { o["depth"] = 1 })},
		"increment-full":    {about: "a full backup with a parent", make: set("parent_id", "backup-0000")},
		"increment-depth":   {about: "an increment of level -1", make: edit(func(o map[string]any) { o["depth"], o["parent_id"] = -1, "backup-0000" })},
		"id-empty":          {about: "no id", make: set("id", "")},
		"id-characters":     {about: "an id with a line break", make: set("id", "a\nb")},
		"id-long":           {about: "an id of 65 bytes", make: set("id", strings.Repeat("x", 65))},
		"vm-name-parent":    {about: "a VM that is called ..", make: set("name", "..")},
		"vm-name-path":      {about: "a VM whose name is a path", make: set("name", "a/b")},
		"vm-name-other":     {about: "a VM whose name is not that of the directory", make: set("name", "wm")},
		"extent-size-0":     {about: "extents of 0 bytes", make: set("extent_bytes", 0)},
		"extent-size-odd":   {about: "extents that are no multiple of 64 KiB", make: set("extent_bytes", 1<<20+512)},
		"extent-size-huge":  {about: "extents of 2^60 bytes", make: set("extent_bytes", int64(1)<<60)},
		"extent-size-other": {about: "extents of twice the size that they have", make: set("extent_bytes", 2<<20)},
		"capacity-0":        {about: "a disk of 0 bytes", make: onDisk("capacity_bytes", 0)},
		"capacity-negative": {about: "a disk of -1 bytes", make: onDisk("capacity_bytes", -1)},
		"capacity-huge":     {about: "a disk of 2^62 bytes", make: onDisk("capacity_bytes", int64(1)<<62)},
		"capacity-number":   {about: "a capacity that is no number of 64 bits", make: onDisk("capacity_bytes", 1e30)},
		"capacity-larger":   {about: "a disk larger than its extents", make: onDisk("capacity_bytes", 8<<20)},
		"capacity-smaller":  {about: "a disk smaller than its extents", make: onDisk("capacity_bytes", 1<<20)},
		"allocated":         {about: "a negative amount of data", make: onDisk("allocated_bytes", -5)},
		"cid-none":          {about: "no content id", make: onDisk("cid", "")},
		"cid-text":          {about: "a content id that is no number", make: onDisk("cid", "nonsense")},
		"cid-other":         {about: "another content id than the descriptor's", make: onDisk("cid", "12345678")},
		"parent-cid":        {about: "a parent in a full backup", make: onDisk("parent_cid", "12345678")},
		"parent-file":       {about: "a parent's name in a full backup", make: onDisk("parent_file", "../../etc/passwd")},
		"adapter":           {about: "another adapter than the descriptor's", make: onDisk("adapter", "ide")},
		"adapter-quote":     {about: "an adapter that would break out of the descriptor", make: onDisk("adapter", "ide\"\nRW 1 FLAT \"/etc/passwd\" 0"), expect: expectUnsupported},
		"disk-file-parent":  {about: "a disk outside the directory", make: onDisk("file", "../disk.vmdk")},
		"disk-file-name":    {about: "a disk that is not called .vmdk", make: onDisk("file", "disk.img")},
		"disk-file-control": {about: "a disk with a control character in its name", make: onDisk("file", "a\x1b[2J.vmdk")},
		"disk-key":          {about: "a key with a line break", make: onDisk("key", "scsi\n0:0")},
		"disk-key-long":     {about: "a key of 65 bytes", make: onDisk("key", strings.Repeat("k", 65))},
		"disk-key-twice":    {about: "two disks with one key", make: twice("file")},
		"disk-file-twice":   {about: "two disks with one file", make: twice("key")},
		"disks-many":        {about: "2000 disks", make: list("disks", `{"key":"x"}`, 2000)},
		"disks-bomb":        {about: "300000 empty disks: little text, much memory", make: list("disks", "{}", 300000)},
		"files-bomb":        {about: "70000 files", make: list("files", `{"name":"x"}`, 70000)},
		"depth-bomb": {about: "20000 nested lists", make: forging(func(f *forge) {
			f.change(OpeningName, func(b []byte) []byte {
				return slices.Concat([]byte(`{"x":`), bytes.Repeat([]byte{'['}, 20000), bytes.Repeat([]byte{']'}, 20000), []byte(","), b[1:])
			})
		})},
		"file-parent":    {about: "a file that is called ..", make: files("..", "vm.vmx")},
		"file-path":      {about: "a file whose name is a path", make: files("a/b", "vm.vmx")},
		"file-backslash": {about: "a file whose name is a path elsewhere", make: files("..\\x", "vm.vmx")},
		"file-twice":     {about: "a file listed twice", make: files("vm.vmx", "vm.vmx")},
		"file-is-sums":   {about: "a file that is called SHA256SUMS", make: files("vm.vmx", SumsName)},
		"file-is-index":  {about: "a file that is called as the index", make: files("vm.vmx", IndexName)},
		"file-is-disk":   {about: "a file that is called as a disk", make: files("vm.vmx", theDescriptor)},
		"file-is-extent": {about: "a file that is called as an extent", make: files("vm.vmx", "disk-s000007.vmdk")},
		"file-order": {about: "files in another order than listed", make: func(tb testing.TB) []byte {
			b, res := writeStream(tb, nil, []File{memFile("a", []byte("a")), memFile("b", []byte("b"))}, testOptions(codec.None))
			f := take(tb, b, res)
			f.members[1], f.members[2] = f.members[2], f.members[1]
			return f.build()
		}},
	}
}

// badIndexes are ends of a stream that a reader has to refuse.
func badIndexes() map[string]badVector {
	sums := func(fn func([]byte) []byte) func(tb testing.TB) []byte {
		return forging(func(f *forge) { f.sums = fn })
	}
	index := func(fn func(*Index)) func(tb testing.TB) []byte {
		return forging(func(f *forge) { f.index = fn })
	}
	raw := func(fn func([]byte) []byte) func(tb testing.TB) []byte {
		return forging(func(f *forge) { f.indexRaw = fn })
	}
	end := func(fn func([]byte) []byte) func(tb testing.TB) []byte {
		return forging(func(f *forge) { f.end = fn })
	}
	replace := func(old, with string) func(b []byte) []byte {
		return func(b []byte) []byte { return bytes.Replace(b, []byte(old), []byte(with), 1) }
	}
	zeros := strings.Repeat("0", 64)
	return map[string]badVector{
		"sums-digest": {about: "a digest in SHA256SUMS is not the member's", make: sums(func(b []byte) []byte { return append([]byte(zeros), b[64:]...) })},
		"sums-order": {about: "the lines of SHA256SUMS in another order", make: sums(func(b []byte) []byte {
			l := bytes.SplitAfter(b, []byte("\n"))
			l[0], l[1] = l[1], l[0]
			return bytes.Join(l, nil)
		})},
		"sums-short":     {about: "a line of SHA256SUMS is missing", make: sums(func(b []byte) []byte { return b[bytes.IndexByte(b, '\n')+1:] })},
		"sums-long":      {about: "SHA256SUMS lists more than there is", make: sums(func(b []byte) []byte { return append(b, zeros+"  x\n"...) })},
		"sums-binary":    {about: "the mark of binary mode in SHA256SUMS", make: sums(replace("  vm.vmx", " *vm.vmx"))},
		"sums-name":      {about: "another name in SHA256SUMS", make: sums(replace("vm.vmx", "vm.vmy"))},
		"index-format":   {about: "an index of a later format", make: index(func(i *Index) { i.Format = "vmstream-index/2" })},
		"index-id":       {about: "the index of another backup", make: index(func(i *Index) { i.ID = "backup-0002" })},
		"index-codec":    {about: "an unknown codec", make: index(func(i *Index) { i.Codec = "brotli" })},
		"index-frames":   {about: "frames without a codec", make: index(func(i *Index) { i.Members[1].Frames = []int64{512} })},
		"index-frame":    {about: "an offset of a frame without a codec", make: index(func(i *Index) { i.Members[1].Frame++ })},
		"index-offset":   {about: "a member is said to be elsewhere", make: index(func(i *Index) { i.Members[2].Tar += 512; i.Members[2].Frame += 512 })},
		"index-size":     {about: "a member is said to be longer", make: index(func(i *Index) { i.Members[2].Size++ })},
		"index-name":     {about: "a member is said to be called otherwise", make: index(func(i *Index) { i.Members[2].Name = "x" })},
		"index-digest":   {about: "a digest in the index is not the member's", make: index(func(i *Index) { i.Members[2].SHA256 = zeros })},
		"index-sums":     {about: "the digest of SHA256SUMS is not right", make: index(func(i *Index) { i.SumsDigest = zeros })},
		"index-headers":  {about: "the digest of the headers is not right", make: index(func(i *Index) { i.HeadersDigest = zeros })},
		"index-more":     {about: "the index lists one member more", make: index(func(i *Index) { i.Members = append(i.Members, i.Members[0]) })},
		"index-less":     {about: "the index lists one member less", make: index(func(i *Index) { i.Members = i.Members[:len(i.Members)-1] })},
		"index-none":     {about: "the index lists nothing", make: index(func(i *Index) { i.Members = nil })},
		"index-null":     {about: "a member of the index is null", make: index(func(i *Index) { i.Members[1] = nil })},
		"index-disks":    {about: "the index has no disk", make: index(func(i *Index) { i.Disks = nil })},
		"index-capacity": {about: "totals with another capacity", make: index(func(i *Index) { i.Disks = slices.Clone(i.Disks); i.Disks[0].CapacityBytes++ })},
		"index-stored":   {about: "totals with another amount of data", make: index(func(i *Index) { i.Disks = slices.Clone(i.Disks); i.Disks[0].StoredBytes-- })},
		"index-bomb":     {about: "an index of 300000 empty members", make: raw(func(b []byte) []byte { return replace(`"members":[`, `"members":[`+strings.Repeat("{},", 300000))(b) })},
		"index-syntax":   {about: "an index that is no JSON", make: raw(replace(`"members"`, `"members`))},
		"index-blocks":   {about: "an index that is no whole number of blocks", make: raw(func(b []byte) []byte { return append(b, ' ') })},
		"index-flipped":  {about: "a byte of the index changed, its end record not", make: raw(replace(`"read_bytes":`, `"read_bytes":1`))},
		"index-huge": {about: "an index of 2^60 bytes", make: end(func(b []byte) []byte {
			return append(indexHeader(1<<60), b[512:]...)
		})},
		"index-large": {about: "an index of 1 GiB behind so small a stream", make: end(func(b []byte) []byte {
			return append(indexHeader(1<<30), b[512:]...)
		})},
		"index-mode":  {about: "an index with another mode", make: end(func(b []byte) []byte { copy(b[100:], "0000600\x00"); checksum(b); return b })},
		"end-offset":  {about: "an end record with another offset", make: raw(endDigit(`"tar_offset":"`))},
		"end-size":    {about: "an end record with another size", make: raw(endDigit(`"size_bytes":"`))},
		"end-digest":  {about: "an end record with another digest", make: raw(endDigit(`"index_sha256":"`))},
		"end-missing": {about: "an index without its end record", make: raw(func(b []byte) []byte { return b[:len(b)-512] })},
		"end-twice":   {about: "an index with two end records", make: raw(func(b []byte) []byte { return append(b, b[len(b)-512:]...) })},
		"end-zeros":   {about: "zeros in place of the end record", make: raw(func(b []byte) []byte { clear(b[len(b)-512:]); return b })},
		"end-blocks":  {about: "end blocks that are not zero", make: end(func(b []byte) []byte { b[len(b)-1] = 1; return b })},
	}
}

func indexHeader(size int64) []byte {
	h, err := (&member{name: "vm/" + IndexName, size: size, mode: fileMode, modTime: testTime}).encode()
	if err != nil {
		return []byte(fmt.Sprint(err))
	}
	return h
}

// endDigit changes the first digit behind key in the end record.
func endDigit(key string) func(b []byte) []byte {
	return func(b []byte) []byte {
		i := bytes.LastIndex(b, []byte(key)) + len(key)
		b[i] = b[i]%9 + '0'
		if b[i] == '0' {
			b[i] = '5'
		}
		return b
	}
}
