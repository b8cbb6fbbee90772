// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/stream/codec"
	"github.com/vmstream/vmstream/vmdk"
)

// vectorCases makes every vector. Their streams are reproducible.
func vectorCases(tb testing.TB) []*vector {
	all := append(goodVectors(tb), goodSeries(tb)...)
	for _, part := range []map[string]badVector{badMembers(), badHeaders(), badRecords(), badIndexes(), badExtents(), badCompressed(), badTracks(), badSeries()} {
		for name, c := range part {
			v := &vector{name: "bad-" + name, expect: c.expect, about: c.about, codec: c.codec, series: c.series}
			if v.expect == "" {
				v.expect = expectCorrupt
			}
			if v.codec == "" {
				v.codec = codec.None
			}
			v.b = c.make(tb)
			all = append(all, v)
		}
	}
	return all
}

// badVector is a case of a stream that has to be refused.
type badVector struct {
	about  string
	make   func(tb testing.TB) []byte
	expect string // corrupt if empty
	codec  string // none if empty
	series int
}

func goodVectors(tb testing.TB) []*vector {
	const mib = 1 << 20
	var all []*vector
	ok := func(name, about, c string, b []byte) {
		all = append(all, &vector{name: "ok-" + name, expect: expectOK, about: about, codec: c, b: b})
	}
	write := func(name, about, c string, d []Disk, f []File, edit ...func(*Options)) {
		o := testOptions(c)
		for _, e := range edit {
			e(&o)
		}
		b, _ := writeStream(tb, d, f, o)
		ok(name, about, c, b)
	}
	lone := func(b []byte) []Disk { return []Disk{memDisk("disk", b)} }
	for _, c := range codecNames() {
		b, _ := baseStream(tb, c)
		ok("codec-"+c, "a file and a disk with packed and empty extents", c, b)
	}
	write("minimal", "a disk of one sector and nothing else", codec.None, lone(vecDisk(512, 0)), nil)
	write("no-disk", "files and no disk", codec.None, nil, []File{memFile("vm.vmx", []byte("x = \"y\"\n"))})
	write("nothing", "a VM without disks and files", codec.None, nil, nil)
	write("two-disks", "two disks", codec.None, []Disk{memDisk("scsi0:0", vecDisk(2*mib, 16)), memDisk("ide1:0", vecDisk(mib, 0))}, nil)
	write("part-of-a-sector", "a disk of 1000 bytes: its extents have two sectors", codec.None, lone(vecDisk(1000, 0)), nil)
	write("part-of-a-grain", "a disk that ends one sector behind a grain", codec.None, lone(vecDisk(2*vmdk.GrainBytes+512, 0, 2)), nil)
	write("one-segment", "a disk of exactly one segment", codec.None, lone(vecDisk(mib, 0, 15)), nil)
	write("segments", "a disk of several segments, all with data", codec.None, lone(vecDisk(3*mib, 0, 16, 47)), nil)
	write("all-zero", "a disk without data: one empty extent", codec.None, lone(make([]byte, 5*mib)), nil)
	write("empty-first", "empty segments in front", codec.None, lone(vecDisk(4*mib, 63)), nil)
	write("empty-last", "empty segments at the end, which is no whole segment", codec.None, lone(vecDisk(3*mib+1536, 0)), nil)
	write("default-extent-size", "extents of 64 MiB: numbers still count segments", codec.Zstd, lone(vecDisk(66*mib, 0, 1050)), nil, func(o *Options) { o.ExtentBytes = 0 })
	write("one-tebibyte", "a disk of 1 TiB without data", codec.Zstd, []Disk{hugeDisk(1 << 40)}, nil, func(o *Options) { o.ExtentBytes = 0 })
	write("names-spaces", "names with spaces and quotes", codec.None, named(memDisk("disk", vecDisk(512, 0)), "my disk (1).vmdk"), []File{memFile("my 'file'.log", nil)}, func(o *Options) { o.Name = "my vm & co" })
	write("names-utf8", "names outside of ASCII: pax records", codec.None, named(memDisk("disk", vecDisk(512, 0)), "Größe 日本.vmdk"), []File{memFile("журнал.log", []byte("x"))}, func(o *Options) { o.Name = "Büro-日本" })
	long := strings.Repeat("long-", 40)
	write("names-long", "names above 100 bytes: pax records", codec.None, named(memDisk("disk", vecDisk(512, 0)), long+"disk.vmdk"), []File{memFile(long+".log", []byte("x"))}, func(o *Options) { o.Name = long })
	half := strings.Repeat("half-", 12)
	write("names-prefix", "names that fit a ustar header with its prefix", codec.None, named(memDisk("disk", vecDisk(512, 0)), half+"disk.vmdk"), []File{memFile(half+".log", []byte("x"))}, func(o *Options) { o.Name = half })
	var files []File
	for i, n := range []int{0, 1, 511, 512, 513, 1 << 20, 1<<20 + 1} {
		files = append(files, memFile(string(rune('a'+i))+".log", bytes.Repeat([]byte{'.'}, n)))
	}
	write("files", "files of lengths around blocks and frames", codec.None, nil, files)
	write("files-zstd", "the same in frames", codec.Zstd, nil, files)
	gone := memFile("gone.log", nil)
	gone.Open = func() (io.ReadCloser, int64, error) { return nil, 0, errors.New("gone") }
	write("file-left-out", "a file of the opening record is missing, with a warning", codec.None, nil, []File{memFile("a.log", []byte("a")), gone})
	ok("explicit-zeros", "grains that are explicitly zero: table entry 1, version 2", codec.None, explicitZeros(tb))
	e, err := codec.Spec{Name: codec.Zstd}.NewEncoder()
	if err != nil {
		tb.Fatal(err)
	}
	plain, _ := baseStream(tb, codec.None)
	anew, err := e.Encode(nil, plain)
	if err != nil {
		tb.Fatal(err)
	}
	ok("compressed-anew", "a stream without codec, compressed as one frame by another program", codec.Zstd, anew)
	inner, _ := baseStream(tb, codec.Zstd)
	ok("decompressed", "what zstd -dc gives for ok-codec-zstd: the index says zstd", codec.None, decompress(tb, inner))
	return all
}

func named(d Disk, file string) []Disk {
	d.Record.File = file
	return []Disk{d}
}

func decompress(tb testing.TB, b []byte) []byte {
	in, out := bufio.NewReaderSize(bytes.NewReader(b), 1<<20), []byte{}
	for {
		if _, err := in.Peek(1); err != nil {
			return out
		}
		r, err := codec.NewSeriesReader(in, 1)
		if err != nil {
			tb.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, content...)
	}
}

// explicitZeros is the base stream whose first extent says zero for a grain
// and whose empty extent says zero for all.
func explicitZeros(tb testing.TB) []byte {
	f := base(tb)
	f.change(firstExtent, func(b []byte) []byte {
		grains := make([]vmdk.GrainState, 16)
		grains[0], grains[1], grains[2] = vmdk.GrainStored, vmdk.GrainZero, vmdk.GrainStored
		vmdk.PutSegment(b[:vmdk.SegmentOverhead(1<<20)], 1<<20, grains)
		return b
	})
	f.change(emptyExtent, func([]byte) []byte {
		b, err := io.ReadAll(vmdk.EmptySegment(3<<20, vmdk.GrainZero))
		if err != nil {
			tb.Fatal(err)
		}
		return b
	})
	return f.build()
}

// gt returns the first grain table of a packed extent of 1 MiB, and rgt the
// first of the redundant ones: header, directory, table; directory, table.
func gt(b []byte) []byte  { return b[7*512:] }
func rgt(b []byte) []byte { return b[2*512:] }

func put32(b []byte, at int, v uint32) { binary.LittleEndian.PutUint32(b[at:], v) }
