// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
)

// qemuSubformats are those that qemu-img writes.
var qemuSubformats = []string{"monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"}

// sourceDisk makes a sparse raw file of size bytes with content of a kind.
func sourceDisk(tb testing.TB, kind string, size int64) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "source.raw")
	f, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		tb.Fatal(err)
	}
	content := make([]byte, min(size, 3<<20))
	_, _ = rand.NewChaCha8([32]byte{byte(size)}).Read(content)
	switch kind {
	case "ext4":
		files := tb.TempDir()
		if err := os.WriteFile(filepath.Join(files, "data"), content, 0o600); err != nil {
			tb.Fatal(err)
		}
		tool(tb, "mkfs.ext4", "-q", "-F", "-d", files, path)
	case "xfs":
		tool(tb, "mkfs.xfs", "-q", "-f", path)
	default: // random, at the beginning and at the very end
		if _, err := f.WriteAt(content, 0); err != nil {
			tb.Fatal(err)
		}
		tail := content[:min(len(content), 100*1000)]
		if _, err := f.WriteAt(tail, size-int64(len(tail))); err != nil {
			tb.Fatal(err)
		}
	}
	return path
}

// sameDisk compares a disk with a raw file by QEMU.
func sameDisk(tb testing.TB, format, path, raw, what string) {
	tb.Helper()
	if out := tool(tb, "qemu-img", "compare", "-f", format, "-F", "raw", path, raw); !strings.Contains(out, "identical") {
		tb.Errorf("%s: %s", what, out)
	}
}

// throughStream backs a disk up and restores it to every given format; each has
// to be what the raw file is for QEMU. Nothing but a pipe is between the two.
func throughStream(t *testing.T, path, raw, codec string, extentBytes int64, formats ...vmdk.Format) {
	t.Helper()
	src, err := OpenSource(t.Context(), path, SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	for _, f := range formats {
		dir := t.TempDir()
		r, w := io.Pipe()
		go func() {
			o := streamOptions(codec)
			o.ExtentBytes = extentBytes
			_, err := Backup(t.Context(), w, src, o)
			w.CloseWithError(err)
		}()
		done, err := Restore(t.Context(), r, RestoreOptions{Dir: dir, Format: f})
		if err != nil {
			t.Errorf("%s by %s to %s: %v", path, codec, f, err)
			continue
		}
		name, format := strings.TrimSuffix(done.Result.Opening.Disks[0].File, ".vmdk"), "vmdk"
		file := filepath.Join(dir, done.Result.Opening.Name, name+".vmdk")
		if f == vmdk.FormatRaw {
			format, file = "raw", filepath.Join(dir, done.Result.Opening.Name, name+".raw")
		}
		sameDisk(t, format, file, raw, fmt.Sprintf("%s by %s to %s", filepath.Base(path), codec, f))
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}
}

// Every subformat that qemu-img writes, of sizes that are no whole grains or
// segments, comes back the same in every format.
func TestSubformats(t *testing.T) {
	testenv.Long(t)
	testenv.Tool(t, "qemu-img")
	const mib = 1 << 20
	codecs := []string{"none", "zstd", "lz4", "xz"}
	n := 0
	for _, c := range []struct {
		kind   string
		size   int64
		extent int64
	}{{"random", 512, mib}, {"random", mib + 512, mib}, {"ext4", 64 * mib, 64 * mib}, {"ext4", 65*mib + 512, 64 * mib}, {"random", 65*mib + 512, 3 * mib}, {"xfs", 320 * mib, 64 * mib}} {
		raw := sourceDisk(t, c.kind, c.size)
		for _, sub := range qemuSubformats {
			t.Run(fmt.Sprintf("%s %d %s", c.kind, c.size, sub), func(t *testing.T) {
				disk := filepath.Join(t.TempDir(), "disk.vmdk")
				tool(t, "qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat="+sub, raw, disk)
				formats := append([]vmdk.Format{FormatSame}, vmdk.Formats()...)
				if c.size > 2*mib { // all of them, but not with each subformat
					formats = []vmdk.Format{formats[n%len(formats)], formats[(n+3)%len(formats)]}
				}
				n++
				codec := codecs[n%len(codecs)]
				if codec == "xz" && c.size > 2*mib {
					codec = "zstd"
				}
				throughStream(t, disk, raw, codec, c.extent, formats...)
			})
		}
	}
}

// A disk of 1 TiB with little in it, written by qemu-io.
func TestTerabyte(t *testing.T) {
	testenv.Long(t)
	testenv.Tool(t, "qemu-io")
	dir := t.TempDir()
	raw, disk := filepath.Join(dir, "source.raw"), filepath.Join(dir, "disk.vmdk")
	if err := os.WriteFile(raw, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(raw, 1<<40); err != nil {
		t.Fatal(err)
	}
	tool(t, "qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=monolithicSparse", disk, "1T")
	for _, at := range []string{"0", "70000000512", "1099511562240"} {
		for path, format := range map[string]string{raw: "raw", disk: "vmdk"} {
			tool(t, "qemu-io", "-f", format, "-c", "write -q -P 0x5a "+at+" 65536", path)
		}
	}
	throughStream(t, disk, raw, "zstd", 64<<20, vmdk.FormatRaw)
	// QEMU looks at each grain of a sparse VMDK, which takes minutes: what is
	// restored as one goes through a second stream before it is compared.
	for _, f := range []vmdk.Format{vmdk.FormatSparse, vmdk.FormatStream} {
		out := filepath.Join(t.TempDir(), "again.vmdk")
		b := backup(t, disk, stream.Options{ID: "test", Created: streamOptions("none").Created, Tool: "test", Codec: streamOptions("zstd").Codec})
		if _, err := Restore(t.Context(), bytes.NewReader(b), RestoreOptions{To: out, Format: f}); err != nil {
			t.Fatal(err)
		}
		throughStream(t, out, raw, "lz4", 64<<20, vmdk.FormatRaw)
	}
}

// Real images come back as QEMU reads them.
func TestCorpusThroughStream(t *testing.T) {
	testenv.Long(t)
	testenv.Tool(t, "qemu-img")
	for _, name := range []string{
		"native/monolithicSparse.vmdk", "native/streamOptimized.vmdk", "native/streamOptimizedWithMarkers.vmdk", "native/twoGbMaxExtentSparse.vmdk",
		"native/vmfs_thick.vmdk", "native/iotest-version3.vmdk", "tools/dfvfs_ext2.vmdk", "tools/plaso_image.vmdk", "tools/stream_opt.vmdk", "tools/tw_sparse.vmdk",
	} {
		path := testenv.Corpus(t, "vmdk/"+name)
		raw := filepath.Join(t.TempDir(), "qemu.raw")
		tool(t, "qemu-img", "convert", "-f", "vmdk", "-O", "raw", path, raw)
		throughStream(t, path, raw, "zstd", 1<<20, vmdk.FormatRaw, vmdk.FormatSparse)
	}
}

// The same source and options give the same bytes, by file or by VMDK, with any
// number of workers.
func TestReproducible(t *testing.T) {
	raw := randomDisk(t, 5<<20)
	for _, codec := range []string{"none", "zstd", "lz4", "xz"} {
		o := streamOptions(codec)
		want := backup(t, raw, o)
		for _, workers := range []int{1, 2, 7} {
			o.Workers = workers
			if got := backup(t, raw, o); !bytes.Equal(got, want) {
				t.Errorf("%s: %d workers give another stream", codec, workers)
			}
		}
	}
}
