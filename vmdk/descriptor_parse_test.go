// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
)

const minimalHead = "version=1\nCID=1\nparentCID=ffffffff\n"

func TestParseDescriptor(t *testing.T) {
	text := "\xef\xbb\xbf# Disk DescriptorFile \r\n\r\n  version=3 \r\nencoding=\"windows-1252\"\r\nCID=fffffffe \n" +
		"\tparentCID = 0A0b0c0d\nisNativeSnapshot=\"no\"\ncreateType = \"custom\"\nparentFileNameHint=\"dir/a b=c.vmdk\"\n" +
		"# Extent description\nrw 5 flat \"a b.vmdk\" 7 partitionUUID device\n\nRDONLY\t6\tSPARSE\t\"s # 1\"\nNOACCESS 8 ZERO\nRW 9 VMFS \"v\" 0\n" +
		"# Change Tracking File\nchangeTrackPath=\"x-ctk.vmdk\"\n\n# The Disk Data Base \n#DDB\n\nddb.adapterType = \"ide\"\nDDB.uuid=\"60 00\"\nddb.comment = \"\"\nRW=5"
	want := &Descriptor{
		Version: 3, Encoding: "windows-1252", CID: 0xfffffffe, ParentCID: 0x0a0b0c0d, CreateType: "custom",
		ParentFileNameHint: "dir/a b=c.vmdk",
		Extents: []Extent{
			{Access: AccessRW, Sectors: 5, Type: ExtentFlat, Name: "a b.vmdk", OffsetSectors: 7, HasOffset: true},
			{Access: AccessRO, Sectors: 6, Type: ExtentSparse, Name: "s # 1"},
			{Access: AccessNone, Sectors: 8, Type: ExtentZero},
			{Access: AccessRW, Sectors: 9, Type: ExtentVMFS, Name: "v", HasOffset: true},
		},
		Header: []Entry{{"isNativeSnapshot", "no"}, {"changeTrackPath", "x-ctk.vmdk"}, {"RW", "5"}},
		DDB:    []Entry{{"ddb.adapterType", "ide"}, {"DDB.uuid", "60 00"}, {"ddb.comment", ""}},
	}
	for _, tail := range []string{"", "\n", "\r\n", "\n\n\n", "\n\x00garbage \x00 = =", "\x00"} {
		got, err := ParseDescriptor([]byte(text + tail))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
}

func TestParseDescriptorCorpus(t *testing.T) {
	for file, want := range map[string]struct {
		extents int
		sectors int64
		ddb     int
	}{
		"flat.vmdk": {1, 2048, 6}, "libvmdk-descriptor_file.1": {1, 16777216, 7}, "monolithicFlat.vmdk": {1, 20480, 10},
		"ms3-win.vmdk": {16, 125829120 - 0, 9}, "twoGbMaxExtentFlat.vmdk": {1, 20480, 10}, "vmfs_thick-000001.vmdk": {1, 4096, 1},
	} {
		b, err := os.ReadFile(testenv.Corpus(t, "vmdk/descriptors/"+file))
		if err != nil {
			t.Fatal(err)
		}
		d, err := ParseDescriptor(b)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if len(d.Extents) != want.extents || d.Sectors() != want.sectors || len(d.DDB) != want.ddb {
			t.Errorf("%s: %d extents of %d sectors, %d entries, want %+v", file, len(d.Extents), d.Sectors(), len(d.DDB), want)
		}
	}
}

func TestParseDescriptorRefuses(t *testing.T) {
	line := func(s string) string { return minimalHead + s + "\n" }
	extent := "RW 1 FLAT \"a\" 0\n"
	for name, tt := range map[string]struct {
		text string
		want error
	}{
		"nothing":                  {"", disk.ErrCorrupt},
		"comments only":            {"# Disk DescriptorFile\n\n", disk.ErrCorrupt},
		"no version":               {"CID=1\nparentCID=ffffffff\n" + extent, disk.ErrCorrupt},
		"version second":           {"CID=1\nversion=1\nparentCID=ffffffff\n" + extent, disk.ErrCorrupt},
		"version 0":                {"version=0\nCID=1\nparentCID=ffffffff\n" + extent, disk.ErrCorrupt},
		"version 4":                {"version=4\nCID=1\nparentCID=ffffffff\n" + extent, disk.ErrUnsupported},
		"version text":             {"version=one\nCID=1\nparentCID=ffffffff\n" + extent, disk.ErrCorrupt},
		"extent before version":    {extent + minimalHead, disk.ErrCorrupt},
		"no CID":                   {"version=1\nparentCID=ffffffff\n" + extent, disk.ErrCorrupt},
		"no parentCID":             {"version=1\nCID=1\n" + extent, disk.ErrCorrupt},
		"CID no hex":               {"version=1\nCID=xyz\nparentCID=ffffffff\n" + extent, disk.ErrCorrupt},
		"CID too long":             {"version=1\nCID=123456789\nparentCID=ffffffff\n" + extent, disk.ErrCorrupt},
		"CID signed":               {"version=1\nCID=+1\nparentCID=ffffffff\n" + extent, disk.ErrCorrupt},
		"CID empty":                {"version=1\nCID=\nparentCID=ffffffff\n" + extent, disk.ErrCorrupt},
		"CID twice":                {line("CID=2\n" + extent), disk.ErrCorrupt},
		"no extents":               {minimalHead, disk.ErrCorrupt},
		"0 sectors":                {line(`RW 0 FLAT "a" 0`), disk.ErrCorrupt},
		"negative sectors":         {line(`RW -1 FLAT "a" 0`), disk.ErrCorrupt},
		"signed sectors":           {line(`RW +1 FLAT "a" 0`), disk.ErrCorrupt},
		"hexadecimal sectors":      {line(`RW 0x10 FLAT "a" 0`), disk.ErrCorrupt},
		"2^63 sectors":             {line(`RW 9223372036854775808 FLAT "a" 0`), disk.ErrCorrupt},
		"2^63-1 sectors":           {line(`RW 9223372036854775807 FLAT "a" 0`), disk.ErrUnsupported},
		"above 64 TiB":             {line(`RW 137438953473 FLAT "a" 0`), disk.ErrUnsupported},
		"above 64 TiB together":    {line("RW 137438953472 FLAT \"a\" 0\n" + extent), disk.ErrUnsupported},
		"offset 2^63":              {line(`RW 1 FLAT "a" 9223372036854775808`), disk.ErrCorrupt},
		"offset 2^62":              {line(`RW 1 FLAT "a" 4611686018427387904`), disk.ErrCorrupt},
		"offset text":              {line(`RW 1 FLAT "a" x`), disk.ErrCorrupt},
		"VMFS with offset":         {line(`RW 1 VMFS "a" 1`), disk.ErrCorrupt},
		"SPARSE with offset":       {line(`RW 1 SPARSE "a" 1`), disk.ErrCorrupt},
		"no name":                  {line(`RW 1 FLAT`), disk.ErrCorrupt},
		"no type":                  {line(`RW 1`), disk.ErrCorrupt},
		"access alone":             {line(`RW`), disk.ErrCorrupt},
		"empty name":               {line(`RW 1 FLAT "" 0`), disk.ErrCorrupt},
		"name not quoted":          {line(`RW 1 FLAT a 0`), disk.ErrCorrupt},
		"name not closed":          {line(`RW 1 FLAT "a 0`), disk.ErrCorrupt},
		"no blank behind the name": {line(`RW 1 FLAT "a"0`), disk.ErrCorrupt},
		"type with a quote":        {line(`RW 1 FL"AT "a"`), disk.ErrCorrupt},
		"long name":                {line(`RW 1 FLAT "` + strings.Repeat("a", 4097) + `" 0`), disk.ErrCorrupt},
		"long line":                {line("#" + strings.Repeat("a", 64<<10)), disk.ErrCorrupt},
		"long text":                {minimalHead + extent + strings.Repeat("#\n", 512<<10), disk.ErrCorrupt},
		"too many extents":         {minimalHead + strings.Repeat("RW 1 ZERO\n", MaxExtents+1), disk.ErrUnsupported},
		"nonsense":                 {line("hello"), disk.ErrCorrupt},
		"key with blanks":          {line("a b = c"), disk.ErrCorrupt},
		"no key":                   {line("= c"), disk.ErrCorrupt},
		"quote not closed":         {line(`a = "c`), disk.ErrCorrupt},
		"a lone quote":             {line(`a = "`), disk.ErrCorrupt},
		"text behind a quote":      {line(`a = "c" d`), disk.ErrCorrupt},
		"quote inside":             {line(`a = b"c`), disk.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseDescriptor([]byte(tt.text))
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}

func TestManyExtents(t *testing.T) {
	var b strings.Builder
	b.WriteString(minimalHead + "createType=\"custom\"\n")
	for range 16384 {
		b.WriteString("RW 131072 ZERO\n")
	}
	d := openDisk(t, writeFile(t, filepath.Join(t.TempDir(), "x.vmdk"), []byte(b.String())), Options{})
	if d.Size() != 1<<40 || dataBytes(t, d) != 0 {
		t.Errorf("%d bytes", d.Size())
	}
}

func FuzzDescriptor(f *testing.F) {
	f.Add([]byte(minimalHead + "RW 1 FLAT \"a\" 0\nNOACCESS 2 ZERO\nddb.x = \"y\"\n"))
	f.Add([]byte("\xef\xbb\xbf# Disk DescriptorFile\r\nversion=3\r\nCID=1 \r\nparentCID=2\r\nrw 1 sparse \"a\"\x00"))
	f.Add([]byte(descriptorText(TypeVMFSSparse, 1, 2, "a.vmdk", `RW 8 VMFSSPARSE "b"`)))
	addCorpusSeeds(f, "vmdk/descriptors")
	f.Fuzz(func(t *testing.T, b []byte) {
		detect(b)
		d, err := ParseDescriptor(b)
		if err != nil {
			var fe *disk.FormatError
			if !errors.As(err, &fe) || fe.Offset > int64(len(b)) {
				t.Fatalf("%v", err)
			}
			return
		}
		sum := int64(0)
		for _, e := range d.Extents {
			if e.Sectors <= 0 || e.OffsetSectors < 0 || e.OffsetSectors+e.Sectors > maxFileSectors || len(e.Name) > maxNameBytes {
				t.Fatalf("%+v", e)
			}
			sum += e.Sectors
		}
		if d.Version < 1 || d.Version > 3 || sum != d.Sectors() || sum <= 0 || sum > maxDiskSectors {
			t.Fatalf("%+v", d)
		}
		// What can be written again has to come back the same.
		text, err := d.Marshal()
		if err != nil {
			return
		}
		again, err := ParseDescriptor(text)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		for i := range d.Extents { // an offset of 0 may be written out
			d.Extents[i].HasOffset = again.Extents[i].HasOffset
		}
		if fmt.Sprint(again.Extents) != fmt.Sprint(d.Extents) || again.CID != d.CID || again.ParentCID != d.ParentCID || again.ParentFileNameHint != d.ParentFileNameHint {
			t.Fatalf("%+v became %+v", d, again)
		}
	})
}

// addCorpusSeeds adds the small files of a directory of the corpus, if there is one.
func addCorpusSeeds(f *testing.F, dir string) {
	f.Helper()
	root := os.Getenv("VMSTREAM_CORPUS")
	if root == "" {
		root = filepath.Join(testenv.Root(f), "..", "shared", "corpus")
	}
	list, err := os.ReadDir(filepath.Join(root, filepath.FromSlash(dir)))
	if err != nil {
		return
	}
	for _, e := range list {
		if st, err := e.Info(); err == nil && st.Mode().IsRegular() && st.Size() < 300<<10 {
			if b, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(dir), e.Name())); err == nil {
				f.Add(b)
			}
		}
	}
}
