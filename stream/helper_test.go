// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream/codec"
	"github.com/vmstream/vmstream/vmdk"
)

// memImage is a disk in memory. Its runs are of runBytes each, zero where all
// bytes are zero and dense is not set.
type memImage struct {
	b        []byte
	runBytes int64
	dense    bool
}

func (m *memImage) Size() int64  { return int64(len(m.b)) }
func (m *memImage) Close() error { return nil }

func (m *memImage) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m.b).ReadAt(p, off)
}

func (m *memImage) Runs(off, n int64) iter.Seq2[disk.Run, error] {
	unit := m.runBytes
	if unit == 0 {
		unit = disk.SectorSize
	}
	return disk.Merge(func(yield func(disk.Run, error) bool) {
		for end := min(off+n, m.Size()); off < end; {
			to := min((off/unit+1)*unit, end)
			r := disk.Run{Offset: off, Length: to - off, Kind: disk.Data}
			if !m.dense && disk.IsZero(m.b[off:to]) {
				r.Kind = disk.Zero
			}
			if !yield(r, nil) {
				return
			}
			off = to
		}
	})
}

// testTime and testID make streams of tests reproducible.
var testTime = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

const testID = "backup-0001"

func testOptions(c string) Options {
	return Options{ID: testID, Created: testTime, Tool: "test", Name: "vm", Consistency: PoweredOff, ExtentBytes: MinExtentBytes, Codec: codec.Spec{Name: c}, Workers: 2}
}

func memDisk(key string, b []byte) Disk {
	file := "disk.vmdk"
	if key != "disk" {
		file = "disk-" + key + ".vmdk"
	}
	return Disk{Image: &memImage{b: b}, Record: DiskRecord{
		Key: key, File: file, Adapter: vmdk.DefaultAdapter, HWVersion: "4",
		Geometry: vmdk.GeometryFor(vmdk.DefaultAdapter, int64(len(b)+511)/512),
		Source:   SourceRecord{Kind: "raw", Path: "/" + key, Name: key},
	}}
}

func memFile(name string, b []byte) File {
	return File{
		Record: FileRecord{Name: name, Kind: "log", SizeBytes: int64(len(b))}, Mode: 0o644, ModTime: testTime,
		Open: func() (io.ReadCloser, int64, error) { return io.NopCloser(bytes.NewReader(b)), int64(len(b)), nil },
	}
}

// textLike fills b with content that every codec makes much smaller, different
// for each seed.
func textLike(b []byte, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	words := []string{"stream ", "of ", "a ", "disk ", fmt.Sprint(seed, " ")}
	for i := 0; i < len(b); {
		i += copy(b[i:], words[r.IntN(len(words))])
	}
	return b
}

// diskWith is a disk of size bytes with text at the given grains.
func diskWith(size int, seed uint64, grains ...int) []byte {
	b := make([]byte, size)
	for _, g := range grains {
		from := g * vmdk.GrainBytes
		textLike(b[from:min(from+vmdk.GrainBytes, size)], seed+uint64(g))
	}
	return b
}

func writeStream(tb testing.TB, disks []Disk, files []File, o Options) ([]byte, *Result) {
	tb.Helper()
	var b bytes.Buffer
	res, err := Write(context.Background(), &b, disks, files, o)
	if err != nil {
		tb.Fatalf("write: %v", err)
	}
	if res.OutBytes != int64(b.Len()) {
		tb.Fatalf("result says %d bytes, there are %d", res.OutBytes, b.Len())
	}
	return b.Bytes(), res
}

// memSink keeps what a stream holds.
type memSink struct {
	opening *Opening
	files   map[string]*bytes.Buffer
	disks   []*memTarget
	ordered bool
}

type memTarget struct {
	mu      sync.Mutex
	b       []byte
	ordered bool
	last    int64
}

type bufCloser struct{ *bytes.Buffer }

func (bufCloser) Close() error { return nil }

func (s *memSink) Begin(o *Opening) error {
	s.opening, s.files, s.disks = o, map[string]*bytes.Buffer{}, make([]*memTarget, len(o.Disks))
	return nil
}

func (s *memSink) File(f *FileInfo) (io.WriteCloser, error) {
	b := new(bytes.Buffer)
	s.files[f.Record.Name] = b
	return bufCloser{b}, nil
}

func (s *memSink) Disk(i int) (disk.Writer, error) {
	const most = 64 << 20 // tests have no larger disks in memory
	n := s.opening.Disks[i].Sectors() * disk.SectorSize
	if n > most {
		return nil, nil
	}
	s.disks[i] = &memTarget{b: make([]byte, n), ordered: s.ordered}
	return s.disks[i], nil
}

func (t *memTarget) Ordered() bool { return t.ordered }
func (t *memTarget) Close() error  { return nil }
func (t *memTarget) Abort()        {}

func (t *memTarget) WriteAt(p []byte, off int64) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if off%disk.SectorSize != 0 || len(p)%disk.SectorSize != 0 || off < 0 || off+int64(len(p)) > int64(len(t.b)) {
		return 0, fmt.Errorf("write of %d bytes at %d to a disk of %d", len(p), off, len(t.b))
	}
	if t.ordered && off < t.last {
		return 0, fmt.Errorf("write at %d after %d", off, t.last)
	}
	t.last = off
	return copy(t.b[off:], p), nil
}

func readStream(b []byte, o ReadOptions) (*memSink, *Result, error) {
	s := &memSink{}
	res, err := Read(context.Background(), bytes.NewReader(b), s, o)
	return s, res, err
}

func codecNames() []string { return codec.Names() }

func mkdirIn(dir string) (string, error)          { return os.MkdirTemp(dir, "") }
func removeAll(dir string)                        { _ = os.RemoveAll(dir) } // below t.TempDir
func writeFile(name string, content []byte) error { return os.WriteFile(name, content, 0o600) }
