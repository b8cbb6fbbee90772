// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
	"pgregory.net/rapid"
)

// TestRestoreCorpus restores disks written by VMware's disk library and by
// others to every format; the digests stand in the corpus' README.
func TestRestoreCorpus(t *testing.T) {
	for name, want := range map[string]string{
		"native/monolithicSparse.vmdk":           "a3bcf05f07a1c06a3380eeca8571f0efb2b85afafa1e21662b8cad436d1f7727",
		"native/streamOptimizedWithMarkers.vmdk": "92c0f8b4280377437056f57c51ef51a5f8aeb1462ac630ef0633febcbfc3db4e",
		"tools/plaso_image.vmdk":                 "854c3db1c4a07a241e2ed9fbd8892adf2adc662c7862a75deed26f3483f414c9",
		"synthetic/a-000003.vmdk":                "59efe68f10c8762452ae9902f1f8480de15ee104b6d87232fb8e73b46ed02376",
	} {
		src, err := Open(testenv.Corpus(t, "vmdk/"+name), Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		content := make([]byte, src.Size())
		if err := disk.ReadFull(src, content, 0); err != nil {
			t.Fatal(err)
		}
		for _, format := range Formats() {
			t.Run(string(format)+"/"+name, func(t *testing.T) {
				w, spec := create(t, CreateSpec{Format: format, SizeBytes: src.Size()})
				if _, err := w.WriteAt(content, 0); err != nil {
					t.Fatal(err)
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				if got := digestOf(t, spec); got != want {
					t.Errorf("digest %s, want %s", got, want)
				}
			})
		}
	}
}

// digestOf returns the digest of a disk as qemu-img sees it.
func digestOf(t testing.TB, spec CreateSpec) string {
	t.Helper()
	kind := "vmdk"
	if spec.Format == FormatRaw {
		kind = "raw"
	}
	raw := filepath.Join(t.TempDir(), "out.raw")
	run(t, "qemu-img", "convert", "-f", kind, "-O", "raw", filepath.Join(spec.Dir, spec.Name), raw)
	f, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// TestExtentLayout compares with the offsets in files by VMware and QEMU.
func TestExtentLayout(t *testing.T) {
	tests := []struct {
		format                            Format
		file                              string
		size                              int64
		descriptor, rgd, rgt, gd, gt, end uint64
	}{
		{FormatSparse, "web01.vmdk", 10 * mib, 1, 21, 22, 26, 27, 128},
		{FormatSparse, "web01.vmdk", 32 * mib, 1, 21, 22, 26, 27, 128},
		{FormatSplit, "web01-s001.vmdk", 10 * mib, 0, 1, 2, 6, 7, 128},
		// 320 tables: 3 sectors of directory.
		{FormatSparse, "web01.vmdk", 10 << 30, 1, 21, 24, 24 + 1280, 27 + 1280, 2688},
	}
	for _, tt := range tests {
		w, spec := create(t, CreateSpec{Format: tt.format, SizeBytes: tt.size})
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		h := readSparseHeader(t, spec.Dir, tt.file)
		b, err := os.ReadFile(filepath.Join(spec.Dir, tt.file))
		if err != nil {
			t.Fatal(err)
		}
		entry := func(gd uint64) uint64 { return uint64(binary.LittleEndian.Uint32(b[gd*512:])) }
		got := [...]uint64{h.descriptorOffset, h.rgdOffset, entry(h.rgdOffset), h.gdOffset, entry(h.gdOffset), h.overHead}
		if want := [...]uint64{tt.descriptor, tt.rgd, tt.rgt, tt.gd, tt.gt, tt.end}; got != want {
			t.Errorf("%s %d: got %v, want %v", tt.format, tt.size, got, want)
		}
		if h.version != 1 || h.flags != 3 || h.capacity != uint64(tt.size/512) || h.newline != newlineTest || h.grainSize != 128 {
			t.Errorf("%s %d: header %+v", tt.format, tt.size, h)
		}
		if uint64(len(b)) != h.overHead*512 {
			t.Errorf("%s %d: the file of an empty disk has %d bytes, metadata %d", tt.format, tt.size, len(b), h.overHead*512)
		}
	}
}

func TestSplitExtentsStayBelow2GiB(t *testing.T) {
	full := func(sectors int64) int64 {
		l := layoutExtent(sectors, 0)
		return (l.grainsBegin + ceilDiv(sectors, GrainSectors)*GrainSectors) * disk.SectorSize
	}
	if n := full(SplitExtentSectors); n != 2146762752 || n >= 1<<31 {
		t.Errorf("a full extent has %d bytes", n)
	}
	if n := full(SplitExtentSectors + 2048); n < 1<<31 {
		t.Errorf("one MiB more would fit: %d bytes", n)
	}
	if SplitExtentSectors%GrainSectors != 0 {
		t.Error("an extent does not end at a grain")
	}
}

// TestZeroGrainsAreNotStored counts what is in the files.
func TestZeroGrainsAreNotStored(t *testing.T) {
	buf := make([]byte, 4*GrainBytes)
	copy(buf[GrainBytes:], randomBytes(512, 1))           // second grain
	copy(buf[4*GrainBytes-512:], randomBytes(512, 2))     // fourth grain
	const sparseSize = (128 + 2*128) * disk.SectorSize    // metadata and two grains
	const streamMost = (128 + 2*3 + 16) * disk.SectorSize // two short records and tables
	for format, check := range map[Format]func(int64) bool{
		FormatSparse: func(n int64) bool { return n == sparseSize },
		FormatSplit:  func(n int64) bool { return n == sparseSize },
		FormatStream: func(n int64) bool { return n <= streamMost },
	} {
		w, spec := create(t, CreateSpec{Format: format, SizeBytes: 8 * mib})
		if _, err := w.WriteAt(buf, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteAt(make([]byte, 3*512), 6*mib); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(filepath.Join(spec.Dir, w.Files()[0]))
		if err != nil {
			t.Fatal(err)
		}
		if !check(st.Size()) {
			t.Errorf("%s: the file has %d bytes", format, st.Size())
		}
	}
}

func TestCreatedDescriptor(t *testing.T) {
	spec := CreateSpec{
		Format: FormatVMFS, SizeBytes: 2 << 30, CID: 0xcafe, UUID: "60 00 C2 99 3c 3b c5 c0-29 99 4b e2 5b 11 a2 45",
		ThinProvisioned: true, ToolsVersion: "10240", Adapter: "lsilogic",
		DDB: []Entry{
			{"ddb.adapterType", "ide"},
			{"ddb.thinProvisioned", "0"},
			{"ddb.longContentID", "e61f2478a1f3c8bc7c3a8f36fffffffe"},
			{"ddb.virtualHWVersion", "13"},
			{"ddb.geometry.cylinders", "7"},
			{"ddb.geometry.heads", "8"},
			{"ddb.geometry.sectors", "9"},
			{"ddb.deletable", "true"},
		},
	}
	w, spec := create(t, spec)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	d := parseFile(t, filepath.Join(spec.Dir, spec.Name))
	long := d.DDBValue("ddb.longContentID")
	want := &Descriptor{
		Version: 1, Encoding: "UTF-8", CID: 0xcafe, ParentCID: NoParent, CreateType: "vmfs",
		Extents: []Extent{{Access: "RW", Sectors: 4194304, Type: "VMFS", Name: "web01-flat.vmdk"}},
		DDB: []Entry{
			{"ddb.adapterType", "lsilogic"},
			{"ddb.geometry.cylinders", "7"},
			{"ddb.geometry.heads", "8"},
			{"ddb.geometry.sectors", "9"},
			{"ddb.longContentID", long},
			{"ddb.thinProvisioned", "1"},
			{"ddb.toolsVersion", "10240"},
			{"ddb.uuid", spec.UUID},
			{"ddb.virtualHWVersion", "13"},
			{"ddb.deletable", "true"},
		},
	}
	if fmt.Sprint(d) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", d, want)
	}
	if len(long) != 32 || !strings.HasSuffix(long, "0000cafe") {
		t.Errorf("long content id %q", long)
	}
}

func parseFile(t testing.TB, path string) *Descriptor {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d, err := ParseDescriptor(b)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDescriptorDefaults(t *testing.T) {
	var cids []uint32
	for range 2 {
		w, spec := create(t, CreateSpec{Format: FormatFlat, SizeBytes: 10485760 * 512, DDB: []Entry{{"ddb.adapterType", "ide"}}})
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		d := parseFile(t, filepath.Join(spec.Dir, spec.Name))
		cids = append(cids, d.CID)
		for key, want := range map[string]string{
			"ddb.adapterType": "ide", "ddb.geometry.cylinders": "10402", "ddb.geometry.heads": "16",
			"ddb.geometry.sectors": "63", "ddb.virtualHWVersion": "4", "ddb.uuid": "", "ddb.toolsVersion": "",
		} {
			if got := d.DDBValue(key); got != want {
				t.Errorf("%s is %q, want %q", key, got, want)
			}
		}
		if !strings.HasSuffix(d.DDBValue("ddb.longContentID"), fmt.Sprintf("%08x", d.CID)) {
			t.Errorf("long content id %s, CID %08x", d.DDBValue("ddb.longContentID"), d.CID)
		}
	}
	if cids[0] == cids[1] || cids[0] == 0 || cids[0] >= 0xfffffffe {
		t.Errorf("content ids %08x", cids)
	}
	s := CreateSpec{LongContentID: "e61f2478a1f3c8bc7c3a8f36AB345678"}
	if cid, long, err := s.contentIDs(); cid != 0xab345678 || long != s.LongContentID || err != nil {
		t.Errorf("contentIDs = %08x, %s, %v", cid, long, err)
	}
}

// TestLongDescriptor needs more than the 20 sectors that are usual.
func TestLongDescriptor(t *testing.T) {
	var ddb []Entry
	for i := range 200 {
		ddb = append(ddb, Entry{fmt.Sprintf("ddb.x%d", i), strings.Repeat("y", 500)})
	}
	src := newSource(t, mib, func(put func(int64, []byte)) { put(300_000, randomBytes(1000, 1)) })
	for _, format := range []Format{FormatSparse, FormatStream} {
		w, spec := create(t, CreateSpec{Format: format, SizeBytes: mib, DDB: ddb})
		src.restore(t, w, mib)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		src.verify(t, spec)
	}
}

// TestWritesAgainstModel makes random ascending writes of any number of
// sectors and compares with a slice.
func TestWritesAgainstModel(t *testing.T) {
	pool := randomBytes(mib, 7)
	for _, format := range Formats() {
		t.Run(string(format), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				sectors := rapid.Int64Range(1, 1200).Draw(rt, "sectors")
				model := make([]byte, sectors*512)
				dir, err := os.MkdirTemp(t.TempDir(), "")
				if err != nil {
					rt.Fatal(err)
				}
				spec := CreateSpec{Format: format, Dir: dir, Name: "a.vmdk", SizeBytes: int64(len(model)), Workers: 2}
				w, err := Create(spec)
				if err != nil {
					rt.Fatal(err)
				}
				defer w.Abort()
				for pos := int64(0); pos < sectors; {
					off := min(sectors-1, pos+rapid.SampledFrom([]int64{0, 0, 1, 5, 127, 128, 300}).Draw(rt, "gap"))
					n := min(sectors-off, rapid.SampledFrom([]int64{1, 2, 127, 128, 129, 256, 500}).Draw(rt, "length"))
					p := model[off*512 : (off+n)*512]
					if rapid.IntRange(0, 3).Draw(rt, "zero") > 0 {
						copy(p, pool[off*512:])
					}
					if _, err := w.WriteAt(p, off*512); err != nil {
						rt.Fatal(err)
					}
					pos = off + n
				}
				if err := w.Close(); err != nil {
					rt.Fatal(err)
				}
				o := Options{Format: SourceVMDK}
				if format == FormatRaw {
					o.Format = SourceRaw
				}
				d, err := Open(filepath.Join(dir, spec.Name), o)
				if err != nil {
					rt.Fatal(err)
				}
				defer d.Close()
				got := make([]byte, len(model))
				if err := disk.ReadFull(d, got, 0); err != nil {
					rt.Fatal(err)
				}
				if d.Size() != int64(len(model)) || !bytes.Equal(got, model) {
					rt.Fatalf("content differs")
				}
			})
		})
	}
}

// TestRestoredDiskCanBeWritten lets qemu write where nothing is stored: it
// only does that right if the grain tables are there.
func TestRestoredDiskCanBeWritten(t *testing.T) {
	for _, format := range []Format{FormatFlat, FormatSparse, FormatSplit} {
		w, spec := create(t, CreateSpec{Format: format, SizeBytes: 3 << 30})
		if _, err := w.WriteAt(bytes.Repeat([]byte{0x11}, mib), mib); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(spec.Dir, spec.Name)
		var args []string
		for _, c := range []string{
			"write -P 0x22 1536k 1M", "write -P 0x33 2560M 3k", "write -P 0x44 0 512",
			"read -P 0x44 0 512", "read -P 0 512 1048064", "read -P 0x11 1M 512k", "read -P 0x22 1536k 1M", "read -P 0x33 2560M 3k",
		} {
			args = append(args, "-c", c)
		}
		out := run(t, "qemu-io", append(args, "-f", "vmdk", path)...)
		if strings.Contains(out, "failed") {
			t.Errorf("%s: qemu reads back other bytes:\n%s", format, out)
		}
		run(t, "qemu-img", "check", "-f", "vmdk", path)
	}
}

func BenchmarkWrite(b *testing.B) {
	const size = 256 * mib
	text := bytes.Repeat([]byte("the quick brown fox jumps over the lazy dog 0123456789\n"), mib)[:size/8]
	contents := map[string][]byte{"random": randomBytes(size/8, 1), "text": text, "zero": make([]byte, size/8)}
	for _, format := range []Format{FormatRaw, FormatSparse, FormatSplit, FormatStream} {
		for name, data := range contents {
			b.Run(string(format)+"/"+name, func(b *testing.B) {
				b.SetBytes(size)
				b.ReportAllocs()
				for b.Loop() {
					w, err := Create(CreateSpec{Format: format, Dir: b.TempDir(), Name: "a.vmdk", SizeBytes: size})
					if err != nil {
						b.Fatal(err)
					}
					for off := 0; off < size; off += mib {
						at := off % len(data)
						if _, err := w.WriteAt(data[at:at+mib], int64(off)); err != nil {
							b.Fatal(err)
						}
					}
					if err := w.Close(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
