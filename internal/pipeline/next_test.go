// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/stream/codec"
	"github.com/vmstream/vmstream/vmdk"
)

// chainOf returns the streams of a disk at several points in time, one by one.
func chainOf(t *testing.T, codec string, points [][]byte) [][]byte {
	t.Helper()
	var all [][]byte
	var last *stream.Result
	path := filepath.Join(t.TempDir(), "d.raw")
	for i, b := range points {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		src, err := OpenSource(t.Context(), path, SourceOptions{})
		if err != nil {
			t.Fatal(err)
		}
		src.Track(stream.MinTrackBytes)
		o := streamOptions(codec)
		if o.ID = "b" + string(rune('0'+i)); i > 0 {
			o.Parent = last.Opening
			if err := src.Since(last.Index, SinceOptions{TrackBytes: TrackParent}); err != nil {
				t.Fatal(err)
			}
		}
		var out bytes.Buffer
		if last, err = Backup(t.Context(), &out, src, o); err != nil {
			t.Fatal(err)
		}
		if err := src.Close(); err != nil {
			t.Fatal(err)
		}
		all = append(all, out.Bytes())
	}
	return all
}

func threePoints() [][]byte {
	const size = 3 << 20
	points := [][]byte{bytes.Repeat([]byte{1}, size), bytes.Repeat([]byte{1}, size), make([]byte, size)}
	clear(points[1][100_000:1_500_000])
	copy(points[1][70<<10:], "changed")
	copy(points[2][2<<20:], "all that is left")
	return points
}

// contentOf reads the disk that a step has restored.
func contentOf(t *testing.T, done *Restored) []byte {
	t.Helper()
	format := vmdk.SourceVMDK
	if done.Disks[0].Raw {
		format = vmdk.SourceRaw
	}
	im, err := vmdk.Open(done.Disks[0].Path, vmdk.Options{Format: format})
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	b, err := io.ReadAll(io.NewSectionReader(im, 0, im.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// trickle gives what a slow pipe would: little at a time, so that who reads ahead
// waits for it while others go on.
type trickle struct {
	r     io.Reader
	reads int
}

func (r *trickle) Read(p []byte) (int, error) {
	if r.reads++; r.reads < 40 {
		time.Sleep(time.Millisecond)
	}
	return r.r.Read(p[:min(len(p), 500)])
}

// Streams that come one at a time make the disk of each point in time, in any
// format, and leave no files of the point before.
func TestRestoreNext(t *testing.T) {
	points := threePoints()
	for _, name := range codec.Names() {
		chain := chainOf(t, name, points)
		for _, f := range append(vmdk.Formats(), FormatSame) {
			dir := t.TempDir()
			for i := range chain {
				done, err := RestoreNext(t.Context(), &trickle{r: bytes.NewReader(chain[i])}, RestoreOptions{Dir: dir, Format: f})
				if err != nil {
					t.Fatalf("%s, stream %d: %v", f, i, err)
				}
				if !bytes.Equal(contentOf(t, done), points[i]) {
					t.Fatalf("%s: the disk is not that of stream %d", f, i)
				}
				if entries, err := os.ReadDir(filepath.Join(dir, "d")); err != nil || len(entries) != len(done.Paths) {
					t.Fatalf("%s, stream %d: %v and %v in the directory, %d files are the VM's", f, i, entries, err, len(done.Paths))
				}
			}
		}
	}
}

// What an increment is not one on is refused and stays as it is.
func TestRestoreNextRefused(t *testing.T) {
	points := threePoints()
	chain := chainOf(t, "none", points)
	cut := chain[1][:len(chain[1])-1]
	for _, c := range []struct {
		name   string
		first  []int // streams restored before
		damage func(dir string) error
		in     []byte
		want   error
	}{
		{name: "nothing restored", in: chain[1], want: disk.ErrMismatch},
		{name: "one left out", first: []int{0}, in: chain[2], want: disk.ErrMismatch},
		{name: "twice", first: []int{0, 1}, in: chain[1], want: disk.ErrMismatch},
		{name: "cut", first: []int{0}, in: cut, want: disk.ErrTruncated},
		{name: "full over it", first: []int{0}, in: chain[0], want: os.ErrExist},
		{name: "no stream", in: []byte("hello"), want: disk.ErrTruncated},
		{name: "written to", first: []int{0}, in: chain[1], want: disk.ErrMismatch, damage: func(dir string) error {
			f, err := os.OpenFile(filepath.Join(dir, "d", "d.raw"), os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("more")
			return errors.Join(err, f.Close())
		}},
		{name: "disk removed", first: []int{0}, in: chain[1], want: disk.ErrMismatch, damage: func(dir string) error {
			return os.Remove(filepath.Join(dir, "d", "d.raw"))
		}},
		{name: "note of other files", first: []int{0}, in: chain[1], want: disk.ErrCorrupt, damage: func(dir string) error {
			path := filepath.Join(dir, ".vmstream-restored-d.json")
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, bytes.ReplaceAll(b, []byte("/d/d.raw"), []byte("/e/d.raw")), 0o600)
		}},
		{name: "note of nothing", first: []int{0}, in: chain[1], want: disk.ErrUnsupported, damage: func(dir string) error {
			return os.WriteFile(filepath.Join(dir, ".vmstream-restored-d.json"), []byte("{}"), 0o600)
		}},
		{name: "note that is none", first: []int{0}, in: chain[1], want: disk.ErrCorrupt, damage: func(dir string) error {
			return os.WriteFile(filepath.Join(dir, ".vmstream-restored-d.json"), []byte("no"), 0o600)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, i := range c.first {
				if _, err := RestoreNext(t.Context(), bytes.NewReader(chain[i]), RestoreOptions{Dir: dir}); err != nil {
					t.Fatal(err)
				}
			}
			if c.damage != nil {
				if err := c.damage(dir); err != nil {
					t.Fatal(err)
				}
			}
			before := snapshotOf(t, dir)
			_, err := RestoreNext(t.Context(), bytes.NewReader(c.in), RestoreOptions{Dir: dir})
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if after := snapshotOf(t, dir); after != before {
				t.Errorf("was\n%s\nis\n%s", before, after)
			}
		})
	}
}

// A full backup where an increment was expected takes the place of what was
// restored before it, unless somebody has changed that.
func TestRestoreNextFollows(t *testing.T) {
	points := threePoints()
	first := chainOf(t, "none", points[:1])[0]
	second := chainOf(t, "none", points[1:2])[0]
	dir := t.TempDir()
	o := RestoreOptions{Dir: dir, Follows: true}
	for i, b := range [][]byte{first, second} {
		done, err := RestoreNext(t.Context(), bytes.NewReader(b), o)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(contentOf(t, done), points[i]) {
			t.Fatalf("the disk is not that of stream %d", i)
		}
	}
	if err := os.Chtimes(filepath.Join(dir, "d", "d.raw"), time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := RestoreNext(t.Context(), bytes.NewReader(first), o); !errors.Is(err, os.ErrExist) {
		t.Errorf("what was changed is replaced: %v", err)
	}
}

// snapshotOf returns names and contents of all files in dir.
func snapshotOf(t *testing.T, dir string) string {
	t.Helper()
	var s strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		s.WriteString(path + "\n" + string(b) + "\n")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s.String()
}
