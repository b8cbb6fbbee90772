// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream/codec"
	"github.com/vmstream/vmstream/vmdk"
)

// allocated returns the bytes of heap that do allocates in all.
func allocatedBy(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// No stream of the vectors makes a reader allocate much more than it is long.
func TestReadAllocations(t *testing.T) {
	const most = 64 << 20
	for _, v := range loadVectors(t) {
		n := allocatedBy(func() { _, _ = Read(t.Context(), bytes.NewReader(v.b), nil, ReadOptions{Workers: 1}) })
		if n > most {
			t.Errorf("%s: a stream of %d bytes takes %d bytes of heap", v.name, len(v.b), n)
		}
	}
}

// A hostile opening record takes bounded time and memory, whatever it lists.
func TestOpeningBounds(t *testing.T) {
	record := func(disks, files int) []byte {
		o := &Opening{Format: FormatName, ID: testID, Created: testTime, Tool: "t", Name: "vm", ExtentBytes: 1 << 20}
		for i := range disks {
			r := memDisk(fmt.Sprint(i), make([]byte, 512)).Record
			r.CapacityBytes, r.CID, r.ParentCID = 512, "12345678", "ffffffff"
			o.Disks = append(o.Disks, r)
		}
		for i := range files {
			o.Files = append(o.Files, FileRecord{Name: fmt.Sprintf("disk-0-s%d.log", i)})
		}
		b, err := o.encode()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	largest := record(maxDisks, maxFiles)
	start := time.Now()
	if _, err := ParseOpening(largest); err != nil || time.Since(start) > 20*time.Second {
		t.Errorf("largest record: %v after %v", err, time.Since(start))
	}
	bombs := map[string]string{
		"disks": `{"format":"vmstream/1","disks":[` + strings.Repeat("{},", 5<<20) + `{}]}`,
		"files": `{"format":"vmstream/1","files":[` + strings.Repeat("{},", 5<<20) + `{}]}`,
		"ddb":   `{"format":"vmstream/1","disks":[{"ddb":[` + strings.Repeat("{},", 5<<20) + `{}]}]}`,
	}
	for name, s := range bombs {
		var err error
		n := allocatedBy(func() { _, err = ParseOpening([]byte(s)) })
		if !errors.Is(err, disk.ErrCorrupt) || n > 64<<20 {
			t.Errorf("%s: %v, %d bytes of heap", name, err, n)
		}
	}
	if _, err := ParseOpening(record(maxDisks+1, 0)); !errors.Is(err, disk.ErrCorrupt) {
		t.Errorf("too many disks: %v", err)
	}
	if _, err := ParseOpening(record(0, maxFiles+1)); !errors.Is(err, disk.ErrCorrupt) {
		t.Errorf("too many files: %v", err)
	}
}

func TestCountObjects(t *testing.T) {
	for s, want := range map[string]int{
		``: 0, `{}`: 1, `[{},{}]`: 2, `{"{":"}"}`: 1, `{"a\"{":{}}`: 2, `{"a\\":{}}`: 2, `"`: 0, `"\`: 0, `{{{`: 3,
	} {
		if got := countObjects([]byte(s)); got != want {
			t.Errorf("%s: %d, want %d", s, got, want)
		}
	}
}

// The memory that is asked for shapes neither the bytes nor what is accepted;
// too little of it is refused with the figure that would do.
func TestMemory(t *testing.T) {
	b := diskWith(5<<20, 1, 0, 40, 79)
	d := []Disk{memDisk("disk", b)}
	for _, c := range codecNames() {
		o := testOptions(c)
		want, _ := writeStream(t, d, nil, o)
		need := slotBytes(o.ExtentBytes, o.Codec)
		for _, memory := range []int64{need, need * 2, need * 10} {
			for _, workers := range []int{1, 2, 5} {
				o.MemoryBytes, o.Workers = memory, workers
				if got, _ := writeStream(t, d, nil, o); !bytes.Equal(got, want) {
					t.Errorf("%s: memory %d and %d workers change the stream", c, memory, workers)
				}
			}
		}
		o.MemoryBytes = need - 1
		figure := fmt.Sprintf("at least %dM", (need+1<<20-1)>>20)
		if _, err := Write(t.Context(), io.Discard, d, nil, o); !errors.Is(err, disk.ErrUnsupported) || !strings.Contains(err.Error(), figure) {
			t.Errorf("%s: too little memory: %v, want one that says %q", c, err, figure)
		}
		if err := CheckMemory(&o); !errors.Is(err, disk.ErrUnsupported) {
			t.Errorf("%s: CheckMemory: %v", c, err)
		}
	}
}

// Reading with less memory than an extent takes checks everything all the same.
func TestReadSmallMemory(t *testing.T) {
	b, res := baseStream(t, codec.None)
	small := ReadOptions{Workers: 4, MemoryBytes: 100}
	if _, _, err := readStream(b, small); err != nil {
		t.Fatal(err)
	}
	for at := tarOffset(firstExtent, 0)(b, res); at < tarOffset(theDescriptor, 0)(b, res); at += 997 {
		b[at] ^= 1
		if _, _, err := readStream(b, small); !isDamage(err) {
			t.Errorf("a bit at %d: %v", at, err)
		}
		b[at] ^= 1
	}
}

// textImage is a huge disk with data in some places, all read from one grain.
type textImage struct {
	zeroImage
	every, n int64 // n bytes of data every so many
}

func (m *textImage) ReadAt(p []byte, _ int64) (int, error) {
	for i := range p {
		p[i] = byte(i) | 1
	}
	return len(p), nil
}

func (m *textImage) runs(off, n int64, yield func(disk.Run, error) bool) {
	for end := min(off+n, m.size); off < end; {
		kind, to := disk.Data, off/m.every*m.every+m.n
		if off%m.every >= m.n {
			kind, to = disk.Zero, off/m.every*m.every+m.every
		}
		to = min(to, end)
		if !yield(disk.Run{Offset: off, Length: to - off, Kind: kind}, nil) {
			return
		}
		off = to
	}
}

func (m *textImage) Runs(off, n int64) iter.Seq2[disk.Run, error] {
	return func(yield func(disk.Run, error) bool) { m.runs(off, n, yield) }
}

// A disk of 1 TiB with 64 MiB of data takes seconds and bounded memory, from
// one end of a pipe to the other; one of 8 TiB without data does too.
func TestHugeDisks(t *testing.T) {
	o := testOptions(codec.None)
	o.ExtentBytes = 0
	for _, im := range []*textImage{{zeroImage{size: 1 << 40}, 64 << 30, 4 << 20}, {zeroImage{size: 8 << 40}, 8 << 40, 1 << 20}} {
		d := hugeDisk(im.size)
		d.Image = im
		start := time.Now()
		var res *Result
		heap := allocatedBy(func() {
			pr, pw := io.Pipe()
			failed := make(chan error, 1)
			go func() {
				_, err := Write(t.Context(), pw, []Disk{d}, nil, o)
				failed <- errors.Join(err, pw.CloseWithError(err))
			}()
			var err error
			res, err = Read(t.Context(), pr, nil, ReadOptions{})
			if err := errors.Join(err, <-failed); err != nil {
				t.Fatal(err)
			}
		})
		took := time.Since(start)
		if heap > 32<<20 || took > 10*time.Second {
			t.Errorf("%d bytes of disk: %d bytes of heap, %v", im.size, heap, took)
		}
		t.Logf("%d TiB: stream of %d bytes, %d KiB of heap, %v", im.size>>40, res.OutBytes, heap>>10, took)
	}
}

// What Write refuses, and how errors of sources, outputs and contexts come back.
func TestWriteErrors(t *testing.T) {
	good := func() []Disk { return []Disk{memDisk("disk", diskWith(3<<20, 1, 0, 20, 40))} }
	boom := errors.New("boom")
	t.Run("options", func(t *testing.T) {
		for name, edit := range map[string]func(o *Options){
			"extent size": func(o *Options) { o.ExtentBytes = 1000 },
			"small":       func(o *Options) { o.ExtentBytes = 65536 },
			"large":       func(o *Options) { o.ExtentBytes = MaxExtentBytes + 65536 },
			"codec":       func(o *Options) { o.Codec.Name = "brotli" },
			"level":       func(o *Options) { o.Codec = codec.Spec{Name: codec.Zstd, Level: 99} },
			"id":          func(o *Options) { o.ID = "" },
			"bad id":      func(o *Options) { o.ID = "a b" },
			"time":        func(o *Options) { o.Created = time.Time{} },
			"name":        func(o *Options) { o.Name = "../x" },
		} {
			o := testOptions(codec.None)
			edit(&o)
			var b bytes.Buffer
			if _, err := Write(t.Context(), &b, good(), nil, o); err == nil || b.Len() > 0 {
				t.Errorf("%s: %v, %d bytes written", name, err, b.Len())
			}
		}
	})
	t.Run("output", func(t *testing.T) {
		for _, c := range codecNames() {
			whole, _ := writeStream(t, good(), nil, testOptions(c))
			for n := 0; n < len(whole); n += len(whole)/40 + 1 {
				w := &failingWriter{left: n, err: boom}
				if _, err := Write(t.Context(), w, good(), nil, testOptions(c)); !ErrOutput(err) || !errors.Is(err, boom) {
					t.Errorf("%s: output fails at %d: %v", c, n, err)
				}
			}
		}
	})
	t.Run("source", func(t *testing.T) {
		for n := range 3 {
			d := good()
			d[0].Image = &failingImage{memImage: *d[0].Image.(*memImage), at: int64(n) << 20, err: boom}
			var b bytes.Buffer
			_, err := Write(t.Context(), &b, d, nil, testOptions(codec.None))
			if !errors.Is(err, boom) || ErrOutput(err) {
				t.Errorf("source fails at %d: %v", n, err)
			}
			if _, _, err := readStream(b.Bytes(), ReadOptions{}); !errors.Is(err, disk.ErrTruncated) {
				t.Errorf("what was written before: %v", err)
			}
		}
	})
	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(boom)
		if _, err := Write(ctx, io.Discard, good(), nil, testOptions(codec.None)); !errors.Is(err, boom) {
			t.Error(err)
		}
		b, _ := baseStream(t, codec.Zstd)
		if _, err := Read(ctx, bytes.NewReader(b), nil, ReadOptions{}); !errors.Is(err, boom) {
			t.Error(err)
		}
	})
}

type failingWriter struct {
	left int
	err  error
}

func (w *failingWriter) Write(p []byte) (int, error) {
	n := min(len(p), w.left)
	w.left -= n
	if n < len(p) {
		return n, w.err
	}
	return n, nil
}

type failingImage struct {
	memImage
	at  int64
	err error
}

func (f *failingImage) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.at {
		return 0, f.err
	}
	return f.memImage.ReadAt(p, off)
}

// Files that change while they are read give warnings and whole streams.
func TestChangingFiles(t *testing.T) {
	long := strings.Repeat("w", 5000)
	open := func(content string, size int64, err error) func() (io.ReadCloser, int64, error) {
		return func() (io.ReadCloser, int64, error) {
			return io.NopCloser(io.MultiReader(strings.NewReader(content), errReader{err})), size, nil
		}
	}
	files := []File{memFile("grew", nil), memFile("shrank", nil), memFile("unreadable", nil), memFile("gone", nil), memFile("same", []byte("same"))}
	files[0].Open = open("0123456789", 4, io.EOF)
	files[1].Open = open("0123", 2000, io.EOF)
	files[2].Open = open("01", 600, errors.New(long))
	files[3].Open = func() (io.ReadCloser, int64, error) { return nil, 0, fs.ErrNotExist }
	o := testOptions(codec.LZ4)
	var told []string
	o.Warn = func(s string) { told = append(told, s) }
	b, res := writeStream(t, nil, files, o)
	if len(told) != 4 || len(res.Warnings) != 4 {
		t.Errorf("told %d warnings, the result has %d", len(told), len(res.Warnings))
	}
	s, read, err := readStream(b, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(read.Warnings) != 4 || len(read.Warnings[2]) > maxWarningBytes {
		t.Errorf("the stream has the warnings %q", read.Warnings)
	}
	for name, want := range map[string]string{
		"grew": "0123", "shrank": "0123" + strings.Repeat("\x00", 1996), "unreadable": "01" + strings.Repeat("\x00", 598), "same": "same",
	} {
		if got := s.files[name].String(); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if s.files["gone"] != nil {
		t.Error("a file that could not be opened is in the stream")
	}
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

// Errors of a sink come back as such and are not taken for damage.
func TestSinkErrors(t *testing.T) {
	boom := errors.New("boom")
	b, _ := baseStream(t, codec.Zstd)
	for _, at := range []string{"begin", "file", "write", "close", "disk", "grain"} {
		_, err := Read(t.Context(), bytes.NewReader(b), &brokenSink{at: at, err: boom}, ReadOptions{})
		if !errors.Is(err, ErrTarget) || !errors.Is(err, boom) || isDamage(err) {
			t.Errorf("sink fails at %s: %v", at, err)
		}
	}
	_, err := Read(t.Context(), io.MultiReader(bytes.NewReader(b[:1000]), errReader{boom}), nil, ReadOptions{})
	if !errors.Is(err, boom) || isDamage(err) || errors.Is(err, ErrTarget) {
		t.Errorf("input fails: %v", err)
	}
}

type brokenSink struct {
	memSink
	at  string
	err error
}

func (s *brokenSink) fail(at string) error {
	if s.at == at {
		return s.err
	}
	return nil
}

func (s *brokenSink) Begin(o *Opening) error {
	_ = s.memSink.Begin(o)
	return s.fail("begin")
}

func (s *brokenSink) File(f *FileInfo) (io.WriteCloser, error) {
	return brokenFile{s}, s.fail("file")
}

func (s *brokenSink) Disk(i int) (disk.Writer, error) {
	w, err := s.memSink.Disk(i)
	if err == nil {
		err = s.fail("disk")
	}
	return brokenDisk{w, s}, err
}

type brokenFile struct{ s *brokenSink }

func (f brokenFile) Write(p []byte) (int, error) { return len(p), f.s.fail("write") }
func (f brokenFile) Close() error                { return f.s.fail("close") }

type brokenDisk struct {
	disk.Writer
	s *brokenSink
}

func (d brokenDisk) WriteAt(p []byte, off int64) (int, error) {
	if err := d.s.fail("grain"); err != nil {
		return 0, err
	}
	return d.Writer.WriteAt(p, off)
}

// The content id is that of the format's definition.
func TestContentID(t *testing.T) {
	if got := CIDString(ContentID("backup-0001", "disk")); got != "c4893d91" {
		t.Errorf("content id %s", got)
	}
	if ContentID("a", "b") == ContentID("a", "c") || ContentID("a", "b") == ContentID("b", "b") {
		t.Error("content ids do not depend on backup and disk")
	}
	for i := range 1000 {
		if id := ContentID(fmt.Sprint(i), "disk"); id == 0 || id == vmdk.NoParent || id == 0xfffffffe {
			t.Errorf("%d: %x", i, id)
		}
	}
}
