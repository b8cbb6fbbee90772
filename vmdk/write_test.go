// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
)

const mib = 1 << 20

// TestRestore writes disks of many sizes and contents in every format.
func TestRestore(t *testing.T) {
	testenv.Long(t)
	edges := func(size int64) func(put func(int64, []byte)) {
		return func(put func(int64, []byte)) {
			// First and last bytes, both sides of 2047 MiB, of each GiB and of
			// a grain table's end, and a piece that is aligned to nothing.
			put(0, randomBytes(512, 1))
			put(33*mib-700, randomBytes(3*mib, 2))
			for off := int64(1 << 30); off < size && off <= 8<<30; off += 1 << 30 {
				put(off-mib-512, randomBytes(2*mib, uint64(off>>30)))
			}
			put(size-200_000, randomBytes(200_000, 3))
			put(size-1, []byte{0x77})
		}
	}
	alternating := func(put func(int64, []byte)) {
		for i := range 40 {
			put(int64(i)*2*GrainBytes, randomBytes(GrainBytes, uint64(i)))
		}
	}
	zeros := func(func(int64, []byte)) {}
	full := func(size int64) func(put func(int64, []byte)) {
		return func(put func(int64, []byte)) { put(0, randomBytes(int(size), 9)) }
	}
	tests := []struct {
		name string
		size int64
		fill func(put func(int64, []byte))
	}{
		{"one sector", 512, full(512)},
		{"1000 bytes", 1000, full(1000)},
		{"grain less a sector", GrainBytes - 512, full(GrainBytes - 512)},
		{"grain", GrainBytes, full(GrainBytes)},
		{"1 MiB and a sector", mib + 512, full(mib + 512)},
		{"random 70 MiB", 70 * mib, full(70 * mib)},
		{"zeros", 100 * mib, zeros},
		{"alternating grains", 5 * mib, alternating},
		{"alternating, a tail of zeros", 64*mib + 512, alternating},
		{"2047 MiB less a sector", 2047*mib - 512, edges(2047*mib - 512)},
		{"2047 MiB", 2047 * mib, edges(2047 * mib)},
		{"2047 MiB and a sector", 2047*mib + 512, edges(2047*mib + 512)},
		{"5 GiB", 5 << 30, edges(5 << 30)},
		{"1 TiB", 1 << 40, edges(1 << 40)},
	}
	for _, tt := range tests {
		src := newSource(t, tt.size, tt.fill)
		for i, format := range Formats() {
			t.Run(string(format)+"/"+tt.name, func(t *testing.T) {
				w, spec := create(t, CreateSpec{Format: format, SizeBytes: tt.size, Adapter: "buslogic"})
				// Pieces that are grains, and pieces that are not.
				src.restore(t, w, []int64{mib, 7 * 512, 100 * 512}[i%3])
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				src.verify(t, spec)
				got := names(t, spec.Dir)
				want := slices.Sorted(slices.Values(w.Files()))
				if !slices.Equal(got, want) {
					t.Errorf("files %v, Files says %v", got, want)
				}
				if last := w.Files()[len(w.Files())-1]; last != spec.Name {
					t.Errorf("the last file is %s", last)
				}
			})
		}
	}
}

// TestRestoreFilesystem does the same with a file system in the disk.
func TestRestoreFilesystem(t *testing.T) {
	dir := t.TempDir()
	for i := range 200 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), randomBytes(i*300, uint64(i)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	src := newSource(t, 48*mib, func(func(int64, []byte)) {})
	run(t, "mkfs.ext4", "-q", "-F", "-d", dir, src.path)
	for _, format := range Formats() {
		t.Run(string(format), func(t *testing.T) {
			w, spec := create(t, CreateSpec{Format: format, SizeBytes: src.size})
			src.restore(t, w, 3*512)
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			src.verify(t, spec)
		})
	}
}

func TestCreateRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(*CreateSpec)
		want   error
	}{
		{"format", func(s *CreateSpec) { s.Format = "qcow2" }, disk.ErrUnsupported},
		{"no format", func(s *CreateSpec) { s.Format = "" }, disk.ErrUnsupported},
		{"no name", func(s *CreateSpec) { s.Name = "" }, fs.ErrInvalid},
		{"dot dot", func(s *CreateSpec) { s.Name = ".." }, fs.ErrInvalid},
		{"directory in the name", func(s *CreateSpec) { s.Name = "../a.vmdk" }, fs.ErrInvalid},
		{"quote in the name", func(s *CreateSpec) { s.Name = `a".vmdk` }, fs.ErrInvalid},
		{"line break in the name", func(s *CreateSpec) { s.Name = "a\n.vmdk" }, fs.ErrInvalid},
		{"capacity 0", func(s *CreateSpec) { s.SizeBytes = 0 }, disk.ErrUnsupported},
		{"negative capacity", func(s *CreateSpec) { s.SizeBytes = -512 }, disk.ErrUnsupported},
		{"huge capacity", func(s *CreateSpec) { s.SizeBytes = disk.MaxSize + 512 }, disk.ErrUnsupported},
		{"level", func(s *CreateSpec) { s.Compression = 10 }, fs.ErrInvalid},
		{"workers", func(s *CreateSpec) { s.Workers = -1 }, fs.ErrInvalid},
		{"long id", func(s *CreateSpec) { s.LongContentID = "12" }, fs.ErrInvalid},
		{"reserved cid", func(s *CreateSpec) { s.CID = 0xfffffffe }, fs.ErrInvalid},
		{"quote in a value", func(s *CreateSpec) { s.UUID = `"` }, disk.ErrUnsupported},
		{"line break in a ddb value", func(s *CreateSpec) { s.DDB = []Entry{{"ddb.comment", "a\nRW 1 FLAT"}} }, disk.ErrUnsupported},
		{"no ddb key", func(s *CreateSpec) { s.DDB = []Entry{{"comment", "a"}} }, disk.ErrUnsupported},
		{"missing directory", func(s *CreateSpec) { s.Dir = filepath.Join(s.Dir, "no") }, fs.ErrNotExist},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, format := range []Format{FormatFlat, FormatVMFS, FormatSparse, FormatSplit, FormatStream} {
				spec := CreateSpec{Format: format, Dir: t.TempDir(), Name: "a.vmdk", SizeBytes: mib}
				dir := spec.Dir
				tt.change(&spec)
				w, err := Create(spec)
				if !errors.Is(err, tt.want) {
					t.Errorf("%s: error %v, want %v", format, err, tt.want)
				}
				if err == nil {
					w.Abort()
				}
				if got := names(t, dir); len(got) > 0 {
					t.Errorf("%s: left %v", format, got)
				}
			}
		})
	}
}

// TestCreateKeepsExistingFiles puts a file in the way of each name.
func TestCreateKeepsExistingFiles(t *testing.T) {
	for _, format := range Formats() {
		w, spec := create(t, CreateSpec{Format: format, SizeBytes: 5 << 30})
		w.Abort()
		for _, name := range w.Files() {
			mine := filepath.Join(spec.Dir, name)
			if err := os.WriteFile(mine, []byte("mine"), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Create(spec); !errors.Is(err, fs.ErrExist) {
				t.Errorf("%s over %s: %v", format, name, err)
			}
			if b, _ := os.ReadFile(mine); string(b) != "mine" {
				t.Errorf("%s changed %s to %q", format, name, b)
			}
			if got := names(t, spec.Dir); !slices.Equal(got, []string{name}) {
				t.Errorf("%s over %s left %v", format, name, got)
			}
			if err := os.Remove(mine); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestAbortRemovesEverything(t *testing.T) {
	for _, format := range Formats() {
		t.Run(string(format), func(t *testing.T) {
			w, spec := create(t, CreateSpec{Format: format, SizeBytes: 5 << 30})
			for _, off := range []int64{0, 3 << 30} {
				if _, err := w.WriteAt(randomBytes(mib, 1), off); err != nil {
					t.Fatal(err)
				}
			}
			w.Abort()
			w.Abort()
			if got := names(t, spec.Dir); len(got) > 0 {
				t.Errorf("left %v", got)
			}
			if _, err := w.WriteAt(make([]byte, 512), 4<<30); err == nil {
				t.Error("a write after Abort works")
			}
			if err := w.Close(); err == nil {
				t.Error("Close after Abort works")
			}
		})
	}
}

func TestAbortAfterCloseKeepsEverything(t *testing.T) {
	for _, format := range Formats() {
		w, spec := create(t, CreateSpec{Format: format, SizeBytes: mib})
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		w.Abort()
		if got := names(t, spec.Dir); len(got) != len(w.Files()) {
			t.Errorf("%s: %v of %v are left", format, got, w.Files())
		}
		if err := w.Close(); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s: second Close: %v", format, err)
		}
		if _, err := w.WriteAt(randomBytes(512, 1), 0); err == nil {
			t.Errorf("%s: a write after Close works", format)
		}
	}
}

func TestCreateInCurrentDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, format := range Formats() {
		w, err := Create(CreateSpec{Format: format, Name: string(format) + ".vmdk", SizeBytes: mib})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Errorf("%s: %v", format, err)
		}
		for _, name := range w.Files() {
			if _, err := os.Stat(name); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestInterrupted looks at what a killed restore leaves behind.
func TestInterrupted(t *testing.T) {
	for _, format := range []Format{FormatFlat, FormatVMFS, FormatSplit, FormatStream} {
		w, spec := create(t, CreateSpec{Format: format, SizeBytes: 64 * mib})
		if _, err := w.WriteAt(randomBytes(33*mib, 1), 0); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(spec.Dir, spec.Name)
		out, err := exec.CommandContext(t.Context(), testenv.Tool(t, "qemu-img"), "info", "-f", "vmdk", path).CombinedOutput()
		if err == nil {
			t.Errorf("%s: the unfinished disk opens:\n%s", format, out)
		}
	}
	w, spec := create(t, CreateSpec{Format: FormatSparse, SizeBytes: 64 * mib})
	if h := readSparseHeader(t, spec.Dir, spec.Name); h.uncleanShutdown != 1 {
		t.Error("the unfinished sparse extent is not marked")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if h := readSparseHeader(t, spec.Dir, spec.Name); h.uncleanShutdown != 0 {
		t.Error("the finished sparse extent is marked")
	}
}

func readSparseHeader(t testing.TB, dir, name string) sparseHeader {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(b, []byte("KDMV")) {
		t.Fatalf("%s is no sparse extent", name)
	}
	return parseSparseHeader((*[512]byte)(b))
}

func TestOrderedWritersRefuse(t *testing.T) {
	sector := randomBytes(512, 1)
	for _, format := range []Format{FormatSparse, FormatSplit, FormatStream} {
		for _, tt := range []struct {
			name string
			off  int64
		}{{"step back", 0}, {"behind the end", mib}, {"negative", -512}, {"far", 1 << 62}} {
			t.Run(string(format)+"/"+tt.name, func(t *testing.T) {
				w, spec := create(t, CreateSpec{Format: format, SizeBytes: mib})
				if !w.Ordered() {
					t.Error("not ordered")
				}
				if _, err := w.WriteAt(sector, 512); err != nil {
					t.Fatal(err)
				}
				if _, err := w.WriteAt(sector, tt.off); !errors.Is(err, fs.ErrInvalid) {
					t.Errorf("error %v", err)
				}
				if err := w.Close(); !errors.Is(err, fs.ErrInvalid) {
					t.Errorf("Close: %v", err)
				}
				if got := names(t, spec.Dir); len(got) > 0 {
					t.Errorf("left %v", got)
				}
			})
		}
	}
}
