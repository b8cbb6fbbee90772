// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
)

// TestPointerLimit puts a writer just below 2 TiB of output.
func TestPointerLimit(t *testing.T) {
	grain := randomBytes(GrainBytes, 1)
	t.Run("sparse", func(t *testing.T) {
		w, _ := create(t, CreateSpec{Format: FormatSparse, SizeBytes: 3 << 40})
		w.(*sparseWriter).cur.next = maxPointerSectors - GrainSectors
		if _, err := w.WriteAt(grain, 0); err != nil {
			t.Fatal(err)
		}
		_, err := w.WriteAt(grain, GrainBytes)
		if !errors.Is(err, disk.ErrUnsupported) || !strings.Contains(err.Error(), "web01.vmdk") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("stream", func(t *testing.T) {
		w, err := CreateStream(io.Discard, CreateSpec{Name: "web01.vmdk", SizeBytes: 3 << 40, Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		s := w.(*streamWriter)
		if _, err := w.WriteAt(make([]byte, GrainBytes), 0); err != nil { // the header
			t.Fatal(err)
		}
		s.sectors = maxPointerSectors - 1 - gtSectors - 1 - s.directorySectors() - 3 - 140
		if _, err := w.WriteAt(grain, 2*GrainBytes); err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteAt(grain, 3*GrainBytes); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); !errors.Is(err, disk.ErrUnsupported) || !strings.Contains(err.Error(), "web01.vmdk") {
			t.Errorf("error %v", err)
		}
		if s.sectors > maxPointerSectors {
			t.Errorf("wrote up to sector %d", s.sectors)
		}
	})
	t.Run("split", func(t *testing.T) {
		dir := t.TempDir()
		_, err := Create(CreateSpec{Format: FormatSplit, Dir: dir, Name: "a.vmdk", SizeBytes: disk.MaxSize})
		if !errors.Is(err, disk.ErrUnsupported) {
			t.Errorf("error %v", err)
		}
		if got := names(t, dir); len(got) > 0 {
			t.Errorf("left %v", got)
		}
	})
}

// TestLargeCapacity writes the ends of disks of 64 TiB, the most there is.
func TestLargeCapacity(t *testing.T) {
	for _, format := range []Format{FormatSparse, FormatStream} {
		w, spec := create(t, CreateSpec{Format: format, SizeBytes: disk.MaxSize})
		tail := randomBytes(512, 4)
		if _, err := w.WriteAt(tail, disk.MaxSize-512); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		d, err := Open(filepath.Join(spec.Dir, spec.Name), Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		got := make([]byte, 512)
		if err := disk.ReadFull(d, got, disk.MaxSize-512); err != nil || !bytes.Equal(got, tail) {
			t.Errorf("%s: last sector differs, %v", format, err)
		}
	}
}

// TestWriterMemory adds up everything that a writer allocates for 2 TiB.
func TestWriterMemory(t *testing.T) {
	piece := randomBytes(mib, 1)
	for format, most := range map[Format]uint64{FormatSparse: 2 * mib, FormatSplit: 16 * mib, FormatStream: 16 * mib} {
		w, _ := create(t, CreateSpec{Format: format, SizeBytes: 2 << 40, Workers: 2})
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for off := int64(0); off < 2<<40; off += 8 << 30 {
			if _, err := w.WriteAt(piece, off); err != nil {
				t.Fatal(err)
			}
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > most {
			t.Errorf("%s allocates %d bytes", format, n)
		}
		w.Abort()
	}
}
