// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
	"pgregory.net/rapid"
)

func TestMarshal(t *testing.T) {
	d := &Descriptor{
		Version: 1, Encoding: "UTF-8", CID: 0x8f67ca74, ParentCID: 0x172e8a4,
		CreateType: TypeTwoGbFlat, ParentFileNameHint: "../web01/web01.vmdk",
		Header: []Entry{{"isNativeSnapshot", "no"}, {"changeTrackPath", "web01-ctk.vmdk"}},
		Extents: []Extent{
			{Access: AccessRW, Sectors: 20480, Type: ExtentFlat, Name: "web 01-f001.vmdk", OffsetSectors: 63, HasOffset: true},
			{Access: AccessRO, Sectors: 4096, Type: ExtentZero},
			{Access: AccessNone, Sectors: 8, Type: ExtentVMFS, Name: "web01-flat.vmdk", HasOffset: true},
		},
		DDB: []Entry{{"ddb.adapterType", "lsilogic"}, {"ddb.comment", ""}},
	}
	const want = `# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=8f67ca74
parentCID=0172e8a4
createType="twoGbMaxExtentFlat"
parentFileNameHint="../web01/web01.vmdk"
isNativeSnapshot="no"

# Extent description
RW 20480 FLAT "web 01-f001.vmdk" 63
RDONLY 4096 ZERO
NOACCESS 8 VMFS "web01-flat.vmdk"

# Change Tracking File
changeTrackPath="web01-ctk.vmdk"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.comment = ""
`
	got, err := d.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// validDescriptor returns one that Marshal takes.
func validDescriptor() *Descriptor {
	return &Descriptor{
		Version: 1, CID: 1, ParentCID: NoParent, CreateType: TypeMonolithicFlat,
		Extents: []Extent{{Access: AccessRW, Sectors: 8, Type: ExtentFlat, Name: "a-flat.vmdk", HasOffset: true}},
	}
}

func TestMarshalRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Descriptor)
		want   string // in the message
	}{
		{"version 0", func(d *Descriptor) { d.Version = 0 }, "version"},
		{"version 4", func(d *Descriptor) { d.Version = 4 }, "version"},
		{"no create type", func(d *Descriptor) { d.CreateType = "" }, "createType"},
		{"no extents", func(d *Descriptor) { d.Extents = nil }, "extents"},
		{"access", func(d *Descriptor) { d.Extents[0].Access = "rw" }, "extent 0"},
		{"type", func(d *Descriptor) { d.Extents[0].Type = "FLAT \"x\" 0\nRW" }, "extent 0"},
		{"no sectors", func(d *Descriptor) { d.Extents[0].Sectors = 0 }, "extent 0"},
		{"negative sectors", func(d *Descriptor) { d.Extents[0].Sectors = -1 }, "extent 0"},
		{"too many sectors", func(d *Descriptor) { d.Extents[0].Sectors = maxDiskSectors + 1 }, "extent 0"},
		{"sum of sectors", func(d *Descriptor) {
			d.Extents[0].Sectors = maxDiskSectors
			d.Extents = append(d.Extents, d.Extents[0])
		}, "extent 1"},
		{"negative offset", func(d *Descriptor) { d.Extents[0].OffsetSectors = -1 }, "extent 0"},
		{"huge offset", func(d *Descriptor) { d.Extents[0].OffsetSectors = 1<<63 - 1 }, "extent 0"},
		{"offset of VMFS", func(d *Descriptor) { d.Extents[0].Type, d.Extents[0].OffsetSectors = ExtentVMFS, 1 }, "extent 0"},
		{"no name", func(d *Descriptor) { d.Extents[0].Name = "" }, "extent 0"},
		{"name of ZERO", func(d *Descriptor) { d.Extents[0].Type = ExtentZero }, "extent 0"},
		{"long name", func(d *Descriptor) { d.Extents[0].Name = strings.Repeat("x", maxNameBytes+1) }, "extent 0"},
		{"quote in the name", func(d *Descriptor) { d.Extents[0].Name = `a"b` }, "extent 0"},
		{"NUL in the name", func(d *Descriptor) { d.Extents[0].Name = "a\x00b" }, "extent 0"},
		{"line feed in the hint", func(d *Descriptor) { d.ParentFileNameHint = "a\nb" }, "parentFileNameHint"},
		{"carriage return in the encoding", func(d *Descriptor) { d.Encoding = "a\r" }, "encoding"},
		{"empty header key", func(d *Descriptor) { d.Header = []Entry{{"", "x"}} }, "key"},
		{"blank in a header key", func(d *Descriptor) { d.Header = []Entry{{"a b", "x"}} }, "key"},
		{"header key with a field", func(d *Descriptor) { d.Header = []Entry{{"cid", "x"}} }, "cid"},
		{"header key twice", func(d *Descriptor) { d.Header = []Entry{{"a", "x"}, {"A", "x"}} }, "twice"},
		{"ddb key in the header", func(d *Descriptor) { d.Header = []Entry{{"ddb.a", "x"}} }, "ddb.a"},
		{"header key in the ddb", func(d *Descriptor) { d.DDB = []Entry{{"version", "x"}} }, "version"},
		{"quote in a ddb value", func(d *Descriptor) { d.DDB = []Entry{{"ddb.a", `"`}} }, "ddb.a"},
		{"long line", func(d *Descriptor) { d.DDB = []Entry{{"ddb.a", strings.Repeat("x", maxLineBytes)}} }, "ddb.a"},
		{"long text", func(d *Descriptor) {
			for range 20 {
				d.DDB = append(d.DDB, Entry{"ddb.a", strings.Repeat("x", maxLineBytes-20)})
			}
		}, "size"},
	}
	if _, err := validDescriptor().Marshal(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := validDescriptor()
			tt.change(d)
			b, err := d.Marshal()
			if !errors.Is(err, disk.ErrUnsupported) || !strings.Contains(err.Error(), tt.want) || b != nil {
				t.Errorf("error %v, want one about %s", err, tt.want)
			}
		})
	}
}

// canonical is what reading back d gives: FLAT states an offset, nothing else does.
func canonical(d *Descriptor) *Descriptor {
	c := *d
	c.Extents = append([]Extent(nil), d.Extents...)
	for i := range c.Extents {
		c.Extents[i].HasOffset = c.Extents[i].Type == ExtentFlat
	}
	return &c
}

func checkRoundTrip(t interface {
	Fatalf(format string, args ...any)
}, d *Descriptor,
) {
	b, err := d.Marshal()
	if err != nil {
		t.Fatalf("Marshal of %+v: %v", d, err)
	}
	got, err := ParseDescriptor(b)
	if err != nil {
		t.Fatalf("ParseDescriptor: %v\n%s", err, b)
	}
	if want := canonical(d); !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v\n%s", got, want, b)
	}
	again, err := got.Marshal()
	if err != nil || string(again) != string(b) {
		t.Fatalf("second time: %v\n%s\nfirst\n%s", err, again, b)
	}
}

func TestDescriptorRoundTrip(t *testing.T) {
	value := rapid.StringMatching(`[ -!#-~\täß€#=]{0,20}`)
	name := rapid.StringMatching(`[ -!#-~äß€]{1,20}`)
	rapid.Check(t, func(t *rapid.T) {
		d := &Descriptor{
			Version:            rapid.IntRange(1, 3).Draw(t, "version"),
			Encoding:           value.Draw(t, "encoding"),
			CID:                rapid.Uint32().Draw(t, "cid"),
			ParentCID:          rapid.Uint32().Draw(t, "parentCID"),
			CreateType:         name.Draw(t, "createType"),
			ParentFileNameHint: value.Draw(t, "hint"),
			Header: rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) Entry {
				key := rapid.OneOf(rapid.StringMatching(`x[A-Za-z0-9_.-]{0,6}`), rapid.Just("changeTrackPath"), rapid.Just("RW")).Draw(t, "key")
				return Entry{key, value.Draw(t, "value")}
			}), 0, 4, func(e Entry) string { return strings.ToLower(e.Key) }).Draw(t, "header"),
			DDB: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Entry {
				return Entry{rapid.StringMatching(`(ddb|DDB)\.[A-Za-z0-9_.-]{0,6}`).Draw(t, "key"), value.Draw(t, "value")}
			}), 0, 4).Draw(t, "ddb"),
			Extents: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Extent {
				e := Extent{
					Access:  rapid.SampledFrom([]string{AccessRW, AccessRO, AccessNone}).Draw(t, "access"),
					Sectors: rapid.Int64Range(1, 1<<33).Draw(t, "sectors"),
					Type:    rapid.SampledFrom([]string{ExtentFlat, ExtentSparse, ExtentZero, ExtentVMFS, ExtentVMFSSparse, ExtentSESparse, ExtentVMFSRDM, ExtentVMFSRaw}).Draw(t, "type"),
				}
				if e.Type != ExtentZero {
					e.Name = name.Draw(t, "name")
				}
				if e.Type == ExtentFlat {
					e.OffsetSectors = rapid.Int64Range(0, 1<<40).Draw(t, "offset")
				}
				e.HasOffset = rapid.Bool().Draw(t, "hasOffset")
				return e
			}), 1, 4).Draw(t, "extents"),
		}
		// Empty and missing lists are one thing to a parser.
		if len(d.Header) == 0 {
			d.Header = nil
		}
		if len(d.DDB) == 0 {
			d.DDB = nil
		}
		checkRoundTrip(t, d)
	})
}

// TestMarshalRealDescriptors rewrites descriptors by VMware and others.
func TestMarshalRealDescriptors(t *testing.T) {
	for _, name := range []string{
		"flat.vmdk", "libvmdk-descriptor_file.1", "monolithicFlat.vmdk",
		"ms3-win.vmdk", "twoGbMaxExtentFlat.vmdk", "vmfs_thick-000001.vmdk",
	} {
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile(testenv.Corpus(t, "vmdk/descriptors/"+name))
			if err != nil {
				t.Fatal(err)
			}
			d, err := ParseDescriptor(b)
			if err != nil {
				t.Fatal(err)
			}
			checkRoundTrip(t, d)
		})
	}
}

// FuzzMarshal: what can be parsed and marshalled is read back the same.
func FuzzMarshal(f *testing.F) {
	if b, err := validDescriptor().Marshal(); err == nil {
		f.Add(b)
	}
	f.Add([]byte("version=3\nCID=1\nparentCID=2\ncreateType=x\nchangeTrackPath=\"a\"\nx=y\nrdonly 5 zero\nRW 9 VMFS \"b\" 0\nddb. = \"\""))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseDescriptor(b)
		if err != nil {
			return
		}
		if _, err := d.Marshal(); err == nil {
			for i, e := range d.Extents {
				if e.Type == ExtentZero { // a ZERO line can name an offset, to no effect
					d.Extents[i].HasOffset = false
				}
			}
			checkRoundTrip(t, d)
		}
	})
}
