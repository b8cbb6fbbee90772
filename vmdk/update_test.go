// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
)

// newCOWDFile creates an empty COWD extent and returns it open.
func newCOWDFile(tb testing.TB, path string, spec COWDSpec) *os.File {
	tb.Helper()
	f, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = f.Close() })
	n, err := CreateCOWD(f, spec)
	if err != nil {
		tb.Fatal(err)
	}
	if st, err := f.Stat(); err != nil || st.Size() != n {
		tb.Fatalf("the file has %d bytes, CreateCOWD says %d (%v)", st.Size(), n, err)
	}
	return f
}

func openUpdate(tb testing.TB, f *os.File, fill []byte) *Updater {
	tb.Helper()
	st, err := f.Stat()
	if err != nil {
		tb.Fatal(err)
	}
	spec := UpdateSpec{Name: f.Name(), FileBytes: st.Size()}
	if fill != nil {
		spec.Fill = bytes.NewReader(fill)
	}
	u, err := OpenUpdate(tb.Context(), f, spec)
	if err != nil {
		tb.Fatal(err)
	}
	return u
}

// TestCOWDHeaderSizes has the figures that are known of new deltas of ESX.
func TestCOWDHeaderSizes(t *testing.T) {
	for _, c := range []struct {
		sectors, freeSector, fileBytes int64
	}{
		{16777216, 36, 20480},
		{1 << 30 / 512, 8, 8192},
		{256 << 30 / 512, 1028, 528384},
		{1<<32 - 1, 8196, 4198400},
		{1, 5, 4096},
	} {
		f := newCOWDFile(t, filepath.Join(t.TempDir(), "x.REDO"), COWDSpec{SizeBytes: c.sectors * 512, ParentName: "x"})
		var b [cowdHeaderSize]byte
		if _, err := f.ReadAt(b[:], 0); err != nil {
			t.Fatal(err)
		}
		h := parseCOWDHeader(&b)
		want := cowdHeader{version: 1, flags: 3, sectors: uint32(c.sectors), grain: 1, gdOffset: 4, gdEntries: uint32(ceilDiv(c.sectors, 4096)), freeSector: uint32(c.freeSector), parentName: "x"}
		if h != want {
			t.Errorf("%d sectors: header %+v, want %+v", c.sectors, h, want)
		}
		if st, _ := f.Stat(); st.Size() != c.fileBytes {
			t.Errorf("%d sectors: %d bytes, want %d", c.sectors, st.Size(), c.fileBytes)
		}
	}
}

func TestCOWDSpecRefused(t *testing.T) {
	for name, s := range map[string]COWDSpec{
		"no size":      {},
		"odd size":     {SizeBytes: 1000},
		"too large":    {SizeBytes: MaxCOWDBytes + 512},
		"grain":        {SizeBytes: 512, GrainSectors: 2049},
		"negative":     {SizeBytes: 512, GrainSectors: -1},
		"long name":    {SizeBytes: 512, ParentName: string(bytes.Repeat([]byte{'x'}, 1024))},
		"control":      {SizeBytes: 512, ParentName: "a\nb"},
		"root & child": {SizeBytes: 512, ParentName: "a", Geometry: Geometry{1, 1, 1}},
	} {
		f, err := os.Create(filepath.Join(t.TempDir(), "x"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := CreateCOWD(f, s); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if st, _ := f.Stat(); st.Size() != 0 {
			t.Errorf("%s: the file was written to", name)
		}
		_ = f.Close()
	}
}

// randomWrites writes pieces of random length to random places, some of them
// zeros, and keeps the model up to date.
func randomWrites(tb testing.TB, u *Updater, model []byte, rnd *rand.Rand, n int) {
	tb.Helper()
	sectors := len(model) / 512
	for range n {
		length := 1 + rnd.IntN(min(sectors, []int{1, 3, 40, 600}[rnd.IntN(4)]))
		at := rnd.IntN(sectors - length + 1)
		p := make([]byte, length*512)
		if rnd.IntN(4) > 0 {
			v := byte(1 + rnd.IntN(255))
			for i := range p {
				p[i] = v + byte(i/512)
			}
		}
		if _, err := u.WriteAt(p, int64(at)*512); err != nil {
			tb.Fatal(err)
		}
		copy(model[at*512:], p)
		if rnd.IntN(20) == 0 {
			if err := u.Flush(); err != nil {
				tb.Fatal(err)
			}
		}
	}
}

func closeUpdate(tb testing.TB, u *Updater) {
	tb.Helper()
	if err := u.Close(); err != nil {
		tb.Fatal(err)
	}
	if err := u.Close(); !errors.Is(err, fs.ErrClosed) {
		tb.Fatalf("second Close: %v", err)
	}
	if _, err := u.WriteAt(make([]byte, 512), 0); !errors.Is(err, fs.ErrClosed) {
		tb.Fatalf("write after Close: %v", err)
	}
}

// writeChain writes a raw base with a descriptor and the descriptor of a COWD
// delta over it, and returns the path of the delta's.
func writeChain(tb testing.TB, dir string, base []byte, delta string) string {
	tb.Helper()
	sectors := len(base) / 512
	files := map[string]string{
		"base-flat.vmdk": string(base),
		"base.vmdk": fmt.Sprintf("# Disk DescriptorFile\nversion=1\nCID=11111111\nparentCID=ffffffff\ncreateType=\"vmfs\"\n\n"+
			"# Extent description\nRW %d VMFS \"base-flat.vmdk\"\n\n# The Disk Data Base\n#DDB\n\nddb.adapterType = \"lsilogic\"\n", sectors),
		"top.vmdk": fmt.Sprintf("# Disk DescriptorFile\nversion=1\nCID=22222222\nparentCID=11111111\ncreateType=\"vmfsSparse\"\nparentFileNameHint=\"base.vmdk\"\n\n"+
			"# Extent description\nRW %d VMFSSPARSE \"%s\"\n\n# The Disk Data Base\n#DDB\n\nddb.adapterType = \"lsilogic\"\n", sectors, delta),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return filepath.Join(dir, "top.vmdk")
}

func readDisk(tb testing.TB, path string) []byte {
	tb.Helper()
	d, err := Open(path, Options{Warn: func(s string) { tb.Errorf("warning: %s", s) }})
	if err != nil {
		tb.Fatal(err)
	}
	defer d.Close()
	if err := d.Check(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	b := make([]byte, d.Size())
	if err := disk.ReadFull(d, b, 0); err != nil {
		tb.Fatal(err)
	}
	return b
}

func sameBytes(tb testing.TB, what string, got, want []byte) {
	tb.Helper()
	if i := firstDifference(got, want); i >= 0 {
		tb.Fatalf("%s: %d bytes, expected %d; they differ from sector %d on", what, len(got), len(want), i/512)
	}
}

// TestCOWDUpdate writes at random into COWD deltas of several grain sizes and
// has them read by our reader, QEMU and libvmdk.
func TestCOWDUpdate(t *testing.T) {
	for _, c := range []struct {
		grain   int64
		sectors int
	}{{1, 5000}, {1, 8192}, {3, 20011}, {16, 70001}, {128, 9001}, {2048, 9001}} {
		t.Run(fmt.Sprintf("grain %d", c.grain), func(t *testing.T) {
			dir := t.TempDir()
			rnd := rand.New(rand.NewPCG(uint64(c.grain), uint64(c.sectors)))
			base := make([]byte, c.sectors*512)
			for i := range base {
				base[i] = byte(i / 512 * 7)
			}
			model := slices.Clone(base)
			top := writeChain(t, dir, base, "top-delta.vmdk")
			f := newCOWDFile(t, filepath.Join(dir, "top-delta.vmdk"), COWDSpec{SizeBytes: int64(len(base)), GrainSectors: c.grain})
			for range 4 {
				u := openUpdate(t, f, base)
				randomWrites(t, u, model, rnd, 60)
				closeUpdate(t, u)
				sameBytes(t, "our reader", readDisk(t, top), model)
			}
			st, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			var h [cowdHeaderSize]byte
			if _, err := f.ReadAt(h[:], 0); err != nil {
				t.Fatal(err)
			}
			if free := int64(parseCOWDHeader(&h).freeSector) * 512; free >= st.Size() || st.Size()%4096 != 0 {
				t.Errorf("free sector at %d, length %d", free, st.Size())
			}
			sameBytes(t, "qemu-img", qemuRaw(t, top), model)
			sameBytes(t, "libvmdk", libvmdkRaw(t, top, 2), model)
		})
	}
}

func qemuRaw(tb testing.TB, path string) []byte {
	tb.Helper()
	out := filepath.Join(tb.TempDir(), "out.raw")
	if b, err := exec.CommandContext(tb.Context(), testenv.Tool(tb, "qemu-img"), "convert", "-f", "vmdk", "-O", "raw", path, out).CombinedOutput(); err != nil {
		tb.Fatalf("qemu-img: %v: %s", err, b)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// libvmdkRaw reads a chain through libvmdk; link 1 is the base.
func libvmdkRaw(tb testing.TB, path string, link int) []byte {
	tb.Helper()
	mount := tb.TempDir()
	tool, unmount := testenv.Tool(tb, "vmdkmount"), unmounter(tb)
	if b, err := exec.CommandContext(tb.Context(), tool, path, mount).CombinedOutput(); err != nil {
		if testenv.Required() {
			tb.Fatalf("vmdkmount: %v: %s", err, b)
		}
		tb.Skipf("vmdkmount: %v: %s", err, b)
	}
	defer func() {
		if b, err := exec.Command(unmount[0], append(unmount[1:], mount)...).CombinedOutput(); err != nil {
			tb.Errorf("%v: %v: %s", unmount, err, b)
		}
	}()
	b, err := os.ReadFile(filepath.Join(mount, fmt.Sprintf("vmdk%d", link)))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// unmounter returns the program that ends a FUSE mount: root needs none of FUSE's.
func unmounter(tb testing.TB) []string {
	tb.Helper()
	for _, name := range []string{"fusermount", "fusermount3"} {
		if p, err := exec.LookPath(name); err == nil {
			return []string{p, "-u"}
		}
	}
	return []string{testenv.Tool(tb, "umount")}
}

// TestHostedUpdate writes at random into sparse disks of our own and of QEMU.
func TestHostedUpdate(t *testing.T) {
	const sectors = 150001
	for _, kind := range []string{"ours", "qemu", "qemu empty"} {
		t.Run(kind, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk.vmdk")
			rnd := rand.New(rand.NewPCG(7, 9))
			model := make([]byte, sectors*512)
			if kind == "ours" {
				w, err := Create(CreateSpec{Format: FormatSparse, Dir: filepath.Dir(path), Name: "disk.vmdk", SizeBytes: sectors * 512})
				if err != nil {
					t.Fatal(err)
				}
				for at := 0; at < sectors; at += 4 * 1000 {
					p := bytes.Repeat([]byte{byte(at)}, 512*70)
					p = p[:min(len(p), len(model)-at*512)]
					if _, err := w.WriteAt(p, int64(at)*512); err != nil {
						t.Fatal(err)
					}
					copy(model[at*512:], p)
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
			} else if b, err := exec.CommandContext(t.Context(), testenv.Tool(t, "qemu-img"), "create", "-f", "vmdk", path, fmt.Sprint(sectors*512)).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, b)
			}
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for i := range 4 {
				u := openUpdate(t, f, nil)
				if !u.Redundant() {
					t.Fatal("has no second copy of the tables")
				}
				model := model[:u.Size()]
				randomWrites(t, u, model, rnd, 40*i)
				closeUpdate(t, u)
				sameBytes(t, "our reader", readDisk(t, path), model)
			}
			sameBytes(t, "qemu-img", qemuRaw(t, path), model)
			if b, err := exec.CommandContext(t.Context(), testenv.Tool(t, "qemu-img"), "check", path).CombinedOutput(); err != nil {
				t.Fatalf("qemu-img check: %v: %s", err, b)
			}
		})
	}
}

// TestUpdateNewHostedTables writes to an extent whose directory names no table
// yet, as compacted disks have it.
func TestUpdateNewHostedTables(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.vmdk")
	const sizeBytes = 200 << 20
	w, err := Create(CreateSpec{Format: FormatSparse, Dir: filepath.Dir(path), Name: "disk.vmdk", SizeBytes: sizeBytes})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var hb [sparseHeaderSize]byte
	if _, err := f.ReadAt(hb[:], 0); err != nil {
		t.Fatal(err)
	}
	h := parseSparseHeader(&hb)
	for _, gd := range []uint64{h.gdOffset, h.rgdOffset} {
		if _, err := f.WriteAt(make([]byte, h.tables()*4), int64(gd)*512); err != nil {
			t.Fatal(err)
		}
	}
	model := make([]byte, sizeBytes)
	u := openUpdate(t, f, nil)
	randomWrites(t, u, model, rand.New(rand.NewPCG(1, 2)), 100)
	closeUpdate(t, u)
	sameBytes(t, "our reader", readDisk(t, path), model)
	sameBytes(t, "qemu-img", qemuRaw(t, path), model)
}

// TestUpdateRefused has extents that must not be written to.
func TestUpdateRefused(t *testing.T) {
	stream := filepath.Join(t.TempDir(), "s.vmdk")
	w, err := Create(CreateSpec{Format: FormatStream, Dir: filepath.Dir(stream), Name: "s.vmdk", SizeBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	compressed, err := os.ReadFile(stream)
	if err != nil {
		t.Fatal(err)
	}
	content := make([]byte, 64*512)
	for i := range content {
		content[i] = 3
	}
	v3 := genCOWD(content, randomFates(64, false, 1), 1, 3, false)
	twice := genCOWD(content, randomFates(64, false, 1), 1, 1, false)
	gt := int(uint32(twice[2048])|uint32(twice[2049])<<8) * 512
	copy(twice[gt+63*4:], twice[gt:gt+4]) // two grains at one place
	for name, c := range map[string]struct {
		file []byte
		want error
	}{
		"raw":        {make([]byte, 4096), disk.ErrUnsupported},
		"compressed": {compressed, disk.ErrUnsupported},
		"hosted COW": {v3, disk.ErrUnsupported},
		"two grains": {twice, disk.ErrCorrupt},
	} {
		path := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(path, c.file, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := OpenUpdate(t.Context(), f, UpdateSpec{Name: path, FileBytes: int64(len(c.file))}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, expected %v", name, err, c.want)
		}
		_ = f.Close()
		if b, _ := os.ReadFile(path); !bytes.Equal(b, c.file) {
			t.Errorf("%s: was written to", name)
		}
	}
}
