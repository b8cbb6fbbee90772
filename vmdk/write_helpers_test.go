// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
)

// randomBytes returns n bytes that do not compress and hold no zero sector.
func randomBytes(n int, seed uint64) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

// rawSource is a raw disk in a file, as the source of a restore.
type rawSource struct {
	path string
	size int64
}

// newSource creates a raw disk of zeros; fill writes to it.
func newSource(t testing.TB, size int64, fill func(put func(off int64, b []byte))) rawSource {
	t.Helper()
	s := rawSource{filepath.Join(t.TempDir(), "source.raw"), size}
	f, err := os.Create(s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	fill(func(off int64, b []byte) {
		if off < 0 || off >= size {
			return
		}
		if _, err := f.WriteAt(b[:min(int64(len(b)), size-off)], off); err != nil {
			t.Fatal(err)
		}
	})
	return s
}

// restore writes the data of the source to w in pieces of whole sectors of at
// most pieceBytes.
func (s rawSource) restore(t testing.TB, w disk.Writer, pieceBytes int64) {
	t.Helper()
	im, err := disk.OpenRaw(s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	buf := make([]byte, pieceBytes+disk.SectorSize)
	for r, err := range im.Runs(0, s.size) {
		if err != nil {
			t.Fatal(err)
		}
		for off := r.Offset; r.Kind == disk.Data && off < r.End(); {
			n := min(pieceBytes, r.End()-off)
			if err := disk.ReadFull(im, buf[:n], off); err != nil {
				t.Fatal(err)
			}
			whole := ceilDiv(n, disk.SectorSize) * disk.SectorSize
			clear(buf[n:whole])
			if m, err := w.WriteAt(buf[:whole], off); int64(m) != whole || err != nil {
				t.Fatalf("WriteAt(%d bytes, %d) = %d, %v", whole, off, m, err)
			}
			off += n
		}
	}
}

// verify compares what was written with the source, by foreign tools and by
// our own reader.
func (s rawSource) verify(t testing.TB, spec CreateSpec) {
	t.Helper()
	out := filepath.Join(spec.Dir, spec.Name)
	kind := "vmdk"
	if spec.Format == FormatRaw {
		kind = "raw"
		if st, err := os.Stat(out); err != nil || st.Size() != s.size {
			t.Errorf("size of the raw file: %v, %v", st.Size(), err)
		}
	}
	s.compareByQemu(t, kind, out)
	if kind == "raw" {
		return
	}
	run(t, "qemu-img", "check", "-f", "vmdk", out)
	s.compareByOpen(t, out)
	if spec.Format != FormatFlat { // libvmdk refuses monolithicFlat
		size := fmt.Sprintf("%d bytes)", ceilDiv(s.size, disk.SectorSize)*disk.SectorSize)
		if size == "512 bytes)" {
			size = "512 bytes"
		}
		if info := run(t, "vmdkinfo", out); !strings.Contains(info, size) {
			t.Errorf("vmdkinfo does not report %s:\n%s", size, info)
		}
	}
}

// compareByQemu compares whole disks; of very large ones, which take qemu-img
// most of a minute, the places that hold data and what is around them.
func (s rawSource) compareByQemu(t testing.TB, kind, out string) {
	t.Helper()
	if s.size < 64<<30 {
		run(t, "qemu-img", "compare", "-f", "raw", "-F", kind, s.path, out)
		return
	}
	im, err := disk.OpenRaw(s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	for _, r := range dataRuns(t, im) {
		from := max(0, r.Offset-mib) / mib * mib
		n := min(s.size, (r.End()+2*mib)/mib*mib) - from
		window := func(kind, path string) string {
			return fmt.Sprintf("driver=raw,offset=%d,size=%d,file.driver=%s,file.file.filename=%s", from, n, kind, path)
		}
		run(t, "qemu-img", "compare", "--image-opts", window("raw", s.path), window(kind, out))
	}
}

func dataRuns(t testing.TB, im disk.Image) []disk.Run {
	t.Helper()
	var out []disk.Run
	for r, err := range im.Runs(0, im.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Kind == disk.Data {
			out = append(out, r)
		}
	}
	return out
}

// compareByOpen compares all that is data in one of the two.
func (s rawSource) compareByOpen(t testing.TB, out string) {
	t.Helper()
	src, err := disk.OpenRaw(s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	d, err := Open(out, Options{Warn: func(w string) { t.Errorf("warning: %s", w) }})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if want := ceilDiv(s.size, disk.SectorSize) * disk.SectorSize; d.Size() != want {
		t.Fatalf("capacity is %d, want %d", d.Size(), want)
	}
	if err := d.Check(t.Context()); err != nil {
		t.Errorf("check: %v", err)
	}
	a, b := make([]byte, mib), make([]byte, mib)
	for _, r := range append(dataRuns(t, src), dataRuns(t, d)...) {
		for off := r.Offset; off < min(r.End(), s.size); off += mib {
			n := min(mib, min(r.End(), s.size)-off)
			if err := errors.Join(disk.ReadFull(src, a[:n], off), disk.ReadFull(d, b[:n], off)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(a[:n], b[:n]) {
				t.Fatalf("content differs between %d and %d", off, off+n)
			}
		}
	}
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), testenv.Tool(t, name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// create starts a disk in a new directory and aborts it at the end if the test
// did not close it.
func create(t testing.TB, spec CreateSpec) (Writer, CreateSpec) {
	t.Helper()
	if spec.Dir == "" {
		spec.Dir = t.TempDir()
	}
	if spec.Name == "" {
		spec.Name = "web01.vmdk"
	}
	w, err := Create(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Abort)
	return w, spec
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range list {
		out = append(out, e.Name())
	}
	return out
}
