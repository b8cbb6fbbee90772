// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vmstream/vmstream/disk"
)

// The generators below write extents by the format's description alone. They
// share no code with the readers but the names of constants.

// fate says what an extent has for each grain.
type fate byte

const (
	absent fate = iota
	stored
	zeroed
)

// randomFates decides the fate of each grain; zeros says if zero is possible.
func randomFates(grains int, zeros bool, seed uint64) []fate {
	rnd := rand.New(rand.NewPCG(seed, 77))
	f := make([]fate, grains)
	for i := 0; i < grains; {
		n := 1 + rnd.IntN(9)
		v := fate(rnd.IntN(3))
		if v == zeroed && !zeros {
			v = absent
		}
		for ; n > 0 && i < grains; n-- {
			f[i] = v
			i++
		}
	}
	f[0], f[grains-1] = stored, stored
	return f
}

// grainOf returns a grain of a disk, with zeros behind the disk's end.
func grainOf(content []byte, i, grainBytes int) []byte {
	g := make([]byte, grainBytes)
	copy(g, content[i*grainBytes:])
	return g
}

// overlayModel puts what an extent has over a disk.
func overlayModel(under, content []byte, f []fate, grainBytes int) []byte {
	out := slices.Clone(under)
	for i, v := range f {
		part := out[i*grainBytes : min((i+1)*grainBytes, len(out))]
		switch v {
		case stored:
			copy(part, content[i*grainBytes:])
		case zeroed:
			clear(part)
		}
	}
	return out
}

func put32(b []byte, off int, v uint32) { binary.LittleEndian.PutUint32(b[off:], v) }
func put64(b []byte, off int, v uint64) { binary.LittleEndian.PutUint64(b[off:], v) }

// padTo extends b with zeros to a multiple of n.
func padTo(b []byte, n int) []byte { return append(b, make([]byte, (n-len(b)%n)%n)...) }

// genCOWD lays out a COWD extent: for each table in turn the table and its
// grains, these in descending order.
func genCOWD(content []byte, f []fate, grain, version int, geometry bool) []byte {
	grainBytes, entries := grain*512, 4096
	if version == 3 {
		entries = 512
	}
	tables := (len(f) + entries - 1) / entries
	b := make([]byte, 2048)
	copy(b, "COWD")
	put32(b, 4, uint32(version))
	put32(b, 8, 3)
	put32(b, 12, uint32(len(content)/512))
	put32(b, 16, uint32(grain))
	put32(b, 20, 4)
	put32(b, 24, uint32(tables))
	if geometry {
		put32(b, 32, 12)
		put32(b, 36, 64)
		put32(b, 40, 32)
	}
	b = padTo(append(b, make([]byte, tables*4)...), 512)
	for t := range tables {
		table := make([]byte, entries*4)
		at, any := len(b), false
		b = append(b, table...)
		for i := min(entries, len(f)-t*entries) - 1; i >= 0; i-- {
			switch f[t*entries+i] {
			case stored:
				any = true
				put32(table, i*4, uint32(len(b)/512))
				b = append(b, grainOf(content, t*entries+i, grainBytes)...)
			case zeroed:
				any = true
				put32(table, i*4, 1)
			}
		}
		if !any {
			b = b[:at]
			continue
		}
		copy(b[at:], table)
		put32(b, 2048+t*4, uint32(at/512))
	}
	put32(b, 28, uint32(len(b)/512))
	return b
}

// genSE lays out an SEsparse extent with grains from number 4090 on, so that
// the rotation of grain numbers shows, and with tables in descending order.
func genSE(content []byte, f []fate) []byte {
	tables := (len(f) + 4095) / 4096
	const firstGrain = 4090
	stores := 0
	for _, v := range f {
		if v == stored {
			stores++
		}
	}
	gd, gts := 4, 5
	grains := gts + tables*64
	b := make([]byte, grains*512)
	put64(b, 0, 0xcafebabe)
	put64(b, 8, 0x200000001)
	put64(b, 16, uint64(len(content)/512))
	put64(b, 24, 8)
	put64(b, 32, 64)
	for i, v := range []int{1, 1, 2, 1, 3, 1, gd, 1, gts, tables * 64, 0, 0, 0, 0, grains, (firstGrain + stores) * 8} {
		put64(b, 80+i*8, uint64(v))
	}
	put64(b, 512, 0xcafecafe)
	b = append(b, make([]byte, (firstGrain+stores)*4096)...)
	next := firstGrain
	for t := range tables {
		n := tables - 1 - t
		put64(b, gd*512+t*8, 1<<60|uint64(n))
		for i := range min(4096, len(f)-t*4096) {
			at := (gts+n*64)*512 + i*8
			switch f[t*4096+i] {
			case stored:
				put64(b, at, 3<<60|uint64(next&0xfff)<<48|uint64(next>>12))
				copy(b[grains*512+next*4096:], grainOf(content, t*4096+i, 4096))
				next++
			case zeroed:
				if i%2 == 0 {
					put64(b, at, 1<<60|12345) // unmapped, with the old grain
				} else {
					put64(b, at, 2<<60)
				}
			}
		}
	}
	return b
}

// genHosted lays out a monolithicSparse disk with grains in descending order.
func genHosted(content []byte, f []fate, grain int, version uint32, redundant bool, descriptor string) []byte {
	grainBytes := grain * 512
	tables := (len(f) + 511) / 512
	gdSectors := (tables*4 + 511) / 512
	flags := uint32(1)
	rgd, gd := 0, 21
	if redundant {
		flags |= 2
		rgd, gd = 21, 21+gdSectors+tables*4
	}
	for _, v := range f {
		if v == zeroed {
			flags |= 4
		}
	}
	end := gd + gdSectors + tables*4
	over := (end + grain - 1) / grain * grain
	b := make([]byte, over*512)
	copy(b, "KDMV")
	put32(b, 4, version)
	put32(b, 8, flags)
	put64(b, 12, uint64(len(content)/512))
	put64(b, 20, uint64(grain))
	put64(b, 28, 1)
	put64(b, 36, 20)
	put32(b, 44, 512)
	put64(b, 48, uint64(rgd))
	put64(b, 56, uint64(gd))
	put64(b, 64, uint64(over))
	copy(b[73:], "\n \r\n")
	copy(b[512:], descriptor)
	tableAt := func(dir, i int) int { return (dir + gdSectors + (i/512)*4) * 512 }
	set := func(i int, v uint32) {
		put32(b, tableAt(gd, i)+i%512*4, v)
		if redundant {
			put32(b, tableAt(rgd, i)+i%512*4, v)
		}
	}
	for t := range tables {
		put32(b, gd*512+t*4, uint32(tableAt(gd, t*512)/512))
		if redundant {
			put32(b, rgd*512+t*4, uint32(tableAt(rgd, t*512)/512))
		}
	}
	for i := len(f) - 1; i >= 0; i-- {
		switch f[i] {
		case stored:
			set(i, uint32(len(b)/512))
			b = append(b, grainOf(content, i, grainBytes)...)
		case zeroed:
			set(i, 1)
		}
	}
	return b
}

// Layouts of a stream, as real writers have them.
const (
	layoutFooter    = iota // VMware's stream converter: everything behind
	layoutFooterGD         // its variant: the header knows the directory, too
	layoutFront            // VMware's disk library: tables in front
	layoutRedundant        // QEMU: both copies in front, no end marker
	layoutCount
)

func compressed(b []byte) []byte {
	var z bytes.Buffer
	w := zlib.NewWriter(&z)
	_, _ = w.Write(b)
	_ = w.Close()
	return z.Bytes()
}

func markerOf(val uint64, size, kind uint32) []byte {
	b := make([]byte, 512)
	put64(b, 0, val)
	put32(b, 8, size)
	put32(b, 12, kind)
	return b
}

// genStream lays out a streamOptimized disk of grains of 128 sectors.
func genStream(content []byte, f []fate, layout int, descriptor string) []byte {
	tables := (len(f) + 511) / 512
	gdSectors := (tables*4 + 511) / 512
	b := make([]byte, 128*512)
	copy(b, "KDMV")
	put32(b, 4, 3)
	put32(b, 8, 0x30001)
	put64(b, 12, uint64(len(content)/512))
	put64(b, 20, 128)
	put64(b, 28, 1)
	put64(b, 36, 20)
	put32(b, 44, 512)
	put64(b, 56, ^uint64(0))
	put64(b, 64, 128)
	copy(b[73:], "\n \r\n\x01")
	copy(b[512:], descriptor)
	gts, gd := make([][]byte, tables), make([]byte, gdSectors*512)
	behind := layout == layoutFooter || layout == layoutFooterGD
	for t := range tables {
		gts[t] = make([]byte, 2048)
		any := false
		for i := range min(512, len(f)-t*512) {
			n := t*512 + i
			if f[n] != stored {
				continue
			}
			any = true
			put32(gts[t], i*4, uint32(len(b)/512))
			end := min((n+1)*65536, len(content))
			if i%2 == 0 {
				end = n*65536 + 65536 // the last grain may be stored whole
			}
			z := compressed(grainOf(content, n, 65536)[:end-n*65536])
			b = padTo(append(append(b, markerOf(uint64(n*128), uint32(len(z)), 0)[:12]...), z...), 512)
		}
		if any && behind {
			b = append(b, markerOf(4, 0, 1)...)
			put32(gd, t*4, uint32(len(b)/512))
			b = append(b, gts[t]...)
		}
	}
	switch layout {
	case layoutFront, layoutRedundant:
		return tablesInFront(b, gts, gdSectors, layout == layoutRedundant)
	}
	b = append(b, markerOf(uint64(gdSectors), 0, 2)...)
	at := uint64(len(b) / 512)
	b = append(b, gd...)
	if layout == layoutFooterGD {
		put64(b, 56, at)
	}
	footer := slices.Clone(b[:512])
	put64(footer, 56, at)
	b = append(append(append(b, markerOf(1, 0, 3)...), footer...), make([]byte, 512)...)
	return b
}

func tablesInFront(b []byte, gts [][]byte, gdSectors int, both bool) []byte {
	at := 21
	place := func(field int) {
		put64(b, field, uint64(at))
		dir := at * 512
		at += gdSectors
		for t, gt := range gts {
			put32(b, dir+t*4, uint32(at))
			copy(b[at*512:], gt)
			at += 4
		}
	}
	if both {
		put32(b, 8, 0x30003)
		place(48)
	}
	place(56)
	if at > 128 {
		panic("the tables do not fit")
	}
	if !both {
		return append(b, make([]byte, 512)...)
	}
	return append(b, make([]byte, 3*512)...)
}

// descriptorText returns a descriptor with one extent.
func descriptorText(createType string, cid, parentCID uint32, hint, extent string) string {
	parent := ""
	if hint != "" {
		parent = fmt.Sprintf("parentFileNameHint=%q\n", hint)
	}
	return fmt.Sprintf("# Disk DescriptorFile\nversion=1\nCID=%08x\nparentCID=%08x\ncreateType=%q\n%s\n# Extent description\n%s\n\n# The Disk Data Base\n#DDB\n\nddb.adapterType = \"buslogic\"\n",
		cid, parentCID, createType, parent, extent)
}

// chainDir writes a flat base, and returns the directory and the content.
func chainDir(t testing.TB, size int) (dir string, content []byte) {
	t.Helper()
	dir, content = t.TempDir(), patchwork(size, 11)
	writeFile(t, filepath.Join(dir, "base-flat.vmdk"), content)
	writeFile(t, filepath.Join(dir, "base.vmdk"), []byte(descriptorText(TypeVMFS, 1, NoParent, "", fmt.Sprintf(`RW %d VMFS "base-flat.vmdk"`, size/512))))
	return dir, content
}

func TestGeneratedCOWDChains(t *testing.T) {
	const size = 5*mib + 3*512
	for _, grain := range []int{1, 16, 100, 128, 2048} {
		for _, version := range []int{1, 3} {
			t.Run(fmt.Sprintf("grain %d version %d", grain, version), func(t *testing.T) {
				dir, want := chainDir(t, size)
				hint := "base.vmdk"
				var warned []string
				for i := range 3 {
					content := patchwork(size, uint64(20+i))
					f := randomFates((size+grain*512-1)/(grain*512), i == 2, uint64(i))
					name := fmt.Sprintf("d%d", i)
					b := genCOWD(content, f, grain, version, false)
					if i == 1 {
						b = append(b, 1, 2, 3) // bytes behind freeSector mean nothing
					}
					writeFile(t, filepath.Join(dir, name+"-delta.vmdk"), b)
					writeFile(t, filepath.Join(dir, name+".vmdk"), []byte(descriptorText(TypeVMFSSparse, uint32(i+2), uint32(i+1), hint, fmt.Sprintf(`RW %d VMFSSPARSE "%s-delta.vmdk"`, size/512, name))))
					want = overlayModel(want, content, f, grain*512)
					hint = name + ".vmdk"
				}
				d := openDisk(t, filepath.Join(dir, hint), Options{Warn: func(s string) { warned = append(warned, s) }})
				checkContent(t, d, want)
				if err := d.Check(t.Context()); err != nil {
					t.Error(err)
				}
				if len(warned) == 0 {
					t.Error("no warning of grain table entries 1")
				}
				if version == 1 && grain != 100 {
					qemuAgrees(t, filepath.Join(dir, "d1.vmdk"))
				}
			})
		}
	}
}

// qemuAgrees compares a disk with what qemu-img makes of it.
func qemuAgrees(t *testing.T, path string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "qemu.raw")
	run(t, "qemu-img", "convert", "-f", "vmdk", "-O", "raw", path, out)
	checkContent(t, openDisk(t, path, Options{}), readFile(t, out))
}

func TestGeneratedSESparse(t *testing.T) {
	const size = 40*mib + 3*512
	dir, base := chainDir(t, size)
	content := patchwork(size, 31)
	f := randomFates((size+4095)/4096, true, 3)
	for i := 4096; i < 8192; i++ {
		f[i] = absent
	}
	writeFile(t, filepath.Join(dir, "s-sesparse.vmdk"), genSE(content, f))
	path := writeFile(t, filepath.Join(dir, "s.vmdk"), []byte(descriptorText(TypeSESparse, 2, 1, "base.vmdk", fmt.Sprintf(`RW %d SESPARSE "s-sesparse.vmdk"`, size/512))))
	d := openDisk(t, path, Options{})
	checkContent(t, d, overlayModel(base, content, f, 4096))
	if err := d.Check(t.Context()); err != nil {
		t.Error(err)
	}
	qemuAgrees(t, path)
}

func TestGeneratedHosted(t *testing.T) {
	const size = 35*mib + 5*512
	content := patchwork(size, 41)
	for _, grain := range []int{16, 128, 2048} {
		for _, version := range []uint32{1, 2, 3} {
			for _, redundant := range []bool{false, true} {
				t.Run(fmt.Sprintf("grain %d version %d redundant %v", grain, version, redundant), func(t *testing.T) {
					f := randomFates((size+grain*512-1)/(grain*512), version == 2, uint64(grain))
					text := descriptorText(TypeMonolithicSparse, 1, NoParent, "", fmt.Sprintf(`RW %d SPARSE "x.vmdk"`, size/512))
					b := genHosted(content, f, grain, version, redundant, text)
					path := writeFile(t, filepath.Join(t.TempDir(), "x.vmdk"), b)
					want := overlayModel(make([]byte, size), content, f, grain*512)
					d := openDisk(t, path, Options{})
					checkContent(t, d, want)
					for r, err := range d.Runs(0, d.Size()) {
						if err != nil || r.Kind == disk.Parent {
							t.Fatal(r, err)
						}
					}
					if version != 3 { // QEMU wants those compressed
						qemuAgrees(t, path)
					}
				})
			}
		}
	}
}

func TestGeneratedStreams(t *testing.T) {
	const size = 70*mib + 7*512
	content := patchwork(size, 51)
	f := randomFates((size+65535)/65536, false, 4)
	for i := 512; i < 1024; i++ {
		f[i] = absent // a table without grains
	}
	want := overlayModel(make([]byte, size), content, f, 65536)
	text := descriptorText(TypeStreamOptimized, 1, NoParent, "", fmt.Sprintf(`RW %d SPARSE "x.vmdk"`, size/512))
	for layout := range layoutCount {
		t.Run(fmt.Sprint("layout ", layout), func(t *testing.T) {
			b := genStream(content, f, layout, text)
			path := writeFile(t, filepath.Join(t.TempDir(), "x.vmdk"), b)
			d := openDisk(t, path, Options{})
			if err := d.Check(t.Context()); err != nil {
				t.Error(err)
			}
			checkContent(t, d, want)
			qemuAgrees(t, path)
		})
	}
	t.Run("footer behind zeros", func(t *testing.T) {
		b := append(genStream(content, f, layoutFooter, text), make([]byte, 100<<10)...)
		checkContent(t, openDisk(t, writeFile(t, filepath.Join(t.TempDir(), "x.vmdk"), b), Options{}), want)
	})
	t.Run("footer lost", func(t *testing.T) {
		b := genStream(content, f, layoutFooter, text)
		b = append(b[:len(b)-3*512], make([]byte, 512)...)
		var warned []string
		d := openDisk(t, writeFile(t, filepath.Join(t.TempDir(), "x.vmdk"), b), Options{Warn: func(s string) { warned = append(warned, s) }})
		checkContent(t, d, want)
		if len(warned) != 1 {
			t.Errorf("warnings: %q", warned)
		}
	})
	t.Run("garbage behind the end", func(t *testing.T) {
		b := append(genStream(content, f, layoutFooter, text), 'x')
		d := openDisk(t, writeFile(t, filepath.Join(t.TempDir(), "x.vmdk"), b), Options{Warn: func(string) {}})
		checkContent(t, d, want)
	})
}

// TestWriters reads back what Create writes.
func TestWriters(t *testing.T) {
	for _, format := range Formats() {
		t.Run(string(format), func(t *testing.T) {
			content := patchwork(9*mib+512, 61)
			src := newSource(t, int64(len(content)), func(put func(int64, []byte)) { put(0, content) })
			w, spec := create(t, CreateSpec{Format: format, SizeBytes: src.size})
			src.restore(t, w, 1<<20)
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			o := Options{}
			if format == FormatRaw {
				o.Format = SourceRaw
			}
			d := openDisk(t, filepath.Join(spec.Dir, spec.Name), o)
			checkContent(t, d, content)
			if format != FormatRaw && d.Info().Geometry.IsZero() {
				t.Error("no geometry")
			}
		})
	}
}
