// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"testing"

	"github.com/vmstream/vmstream/stream/codec"
	"github.com/vmstream/vmstream/vmdk"
)

// forge takes a stream apart and puts it together again with something changed,
// all digests right: what a hostile writer would do.
type forge struct {
	tb      testing.TB
	spec    codec.Spec
	members []forged // up to the last descriptor
	totals  []DiskTotals
	tracks  []*DiskTrack
	id      string

	sums  func([]byte) []byte // changes SHA256SUMS
	index func(*Index)        // changes the index before its end record is made
	// indexBody changes what is before the end record, which then fits it.
	indexBody func([]byte) []byte
	indexRaw  func([]byte) []byte // changes the index member
	end       func([]byte) []byte // changes what follows the index
}

type forged struct {
	name   string
	header []byte // whole blocks
	body   []byte
}

// take makes a forge of a stream without codec.
func take(tb testing.TB, b []byte, res *Result) *forge {
	f := &forge{tb: tb, totals: res.Index.Disks, id: res.Index.ID}
	for _, m := range res.Index.Members {
		if m.Name == SumsName {
			break
		}
		_, n, err := readHeader(bytes.NewReader(b[m.Tar:]))
		if err != nil {
			tb.Fatal(err)
		}
		at := m.Tar + n
		f.members = append(f.members, forged{m.Name, bytes.Clone(b[m.Tar:at]), bytes.Clone(b[at : at+m.Size])})
	}
	return f
}

func (f *forge) at(name string) int {
	for i := range f.members {
		if f.members[i].name == name {
			return i
		}
	}
	f.tb.Fatalf("no member %q", name)
	return -1
}

// change replaces a member's content, with a header that fits.
func (f *forge) change(name string, edit func(b []byte) []byte) *forge {
	m := &f.members[f.at(name)]
	m.body = edit(m.body)
	m.header = f.header(&member{name: "vm/" + m.name, size: int64(len(m.body)), mode: diskMode, modTime: testTime})
	return f
}

func (f *forge) header(m *member) []byte {
	h, err := m.encode()
	if err != nil {
		f.tb.Fatal(err)
	}
	return h
}

// opening edits the opening record as JSON.
func (f *forge) opening(edit func(o map[string]any)) *forge {
	return f.change(OpeningName, func(b []byte) []byte {
		o := map[string]any{}
		if err := json.Unmarshal(b, &o); err != nil {
			f.tb.Fatal(err)
		}
		edit(o)
		b, err := json.Marshal(o)
		if err != nil {
			f.tb.Fatal(err)
		}
		return b
	})
}

func openingDisk(o map[string]any, i int) map[string]any {
	return o["disks"].([]any)[i].(map[string]any)
}

// build writes the stream.
func (f *forge) build() []byte {
	var out bytes.Buffer
	o := testOptions(f.spec.Name)
	o.Codec = f.spec
	if err := o.prepare(); err != nil {
		f.tb.Fatal(err)
	}
	e, err := newEmitter(&out, &o, "vm")
	check := func(err error) {
		if err != nil {
			f.tb.Fatal(err)
		}
	}
	check(err)
	for _, m := range f.members {
		check(e.stream(m.name, m.header, int64(len(m.body)), bytes.NewReader(m.body)))
	}
	s := sums(e.members)
	if f.sums != nil {
		s = f.sums(s)
	}
	check(e.bytes(SumsName, fileMode, s))
	ix := &Index{
		Format: IndexFormatName, ID: f.id, Codec: f.spec.Name, Disks: f.totals, Tracks: f.tracks, Members: e.members,
		SumsDigest: e.members[len(e.members)-1].SHA256, HeadersDigest: hex.EncodeToString(e.headers.Sum(nil)),
	}
	if ix.Codec == "" {
		ix.Codec = codec.None
	}
	for i := range f.members {
		var o Opening
		if f.members[i].name == OpeningName && json.Unmarshal(f.members[i].body, &o) == nil {
			ix.Opening = &o
			break
		}
	}
	if f.index != nil {
		f.index(ix)
	}
	b, err := encodeIndex(ix, e.tar)
	check(err)
	if f.indexBody != nil {
		body := f.indexBody(b[:len(b)-blockSize])
		end, err := encodeEnd(ix.ID, e.tar, int64(len(body))+blockSize, body)
		check(err)
		b = append(body, end...)
	}
	if f.indexRaw != nil {
		b = f.indexRaw(b)
	}
	before := out.Len()
	check(e.end(b))
	if f.end != nil {
		tail := f.end(bytes.Clone(out.Bytes()[before:]))
		out.Truncate(before)
		out.Write(tail)
	}
	return out.Bytes()
}

// vecDisk is a disk of size bytes with a line of text in some grains.
func vecDisk(size int, grains ...int) []byte {
	b := make([]byte, size)
	for _, g := range grains {
		copy(b[g*vmdk.GrainBytes:], "this is grain "+string(rune('A'+g%26))+" of the disk")
	}
	return b
}

// base is the stream that bad vectors are made from: a file, and a disk whose
// extents are packed, empty, packed.
func base(tb testing.TB) *forge {
	b, res := baseStream(tb, codec.None)
	return take(tb, b, res)
}

func baseStream(tb testing.TB, c string) ([]byte, *Result) {
	return writeStream(tb, []Disk{memDisk("disk", vecDisk(4<<20+512, 0, 2, 64))},
		[]File{memFile("vm.vmx", []byte("displayName = \"vm\"\n"))}, testOptions(c))
}

const (
	firstExtent   = "disk-s000001.vmdk"
	emptyExtent   = "disk-s000002.vmdk"
	lastExtent    = "disk-s000005.vmdk"
	theDescriptor = "disk.vmdk"
)
