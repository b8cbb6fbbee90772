// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
)

// The digests stand in the corpus's README.md: sha256 of the raw content as
// two independent readers gave it.
var corpusDigests = []struct {
	file, kind, digest string
	size               int64
}{
	{"native/iotest-version3.vmdk", "streamOptimized", "0859bb3397bc1d30fa979c80a289ce98bfd6c1141a64594d6f3cc8cd68218faf", 17179869184},
	{"native/monolithicSparse.vmdk", "monolithicSparse", "a3bcf05f07a1c06a3380eeca8571f0efb2b85afafa1e21662b8cad436d1f7727", 10485760},
	{"native/streamOptimized.vmdk", "streamOptimized", "a3bcf05f07a1c06a3380eeca8571f0efb2b85afafa1e21662b8cad436d1f7727", 10485760},
	{"native/streamOptimizedWithMarkers.vmdk", "streamOptimized", "92c0f8b4280377437056f57c51ef51a5f8aeb1462ac630ef0633febcbfc3db4e", 1048576},
	{"native/twoGbMaxExtentSparse.vmdk", "twoGbMaxExtentSparse", "a3bcf05f07a1c06a3380eeca8571f0efb2b85afafa1e21662b8cad436d1f7727", 10485760},
	{"native/vmfs_thick.vmdk", "vmfs", "8d43c795d24bce01b49f92744f934c1072210dcac170bb1c83a5aa56df46ab7d", 2097152},
	{"synthetic/a.vmdk", "vmfs", "8be979f7aaf9404a3f11b170012f4e68b11c84d1c9ab52a5e298bf16411bcd4a", 2159104},
	{"synthetic/a-000001.vmdk", "vmfsSparse", "2f0e194861a36347f0bcb64bd4d3b1d572a01d0cea5d2f1e0e37e86b7c1c02e2", 2159104},
	{"synthetic/a-000002.vmdk", "vmfsSparse", "92ba143277f2ece96376ee85f1c687055495d57e76bec42554e457f2b7abc3da", 2159104},
	{"synthetic/a-000003.vmdk", "vmfsSparse", "59efe68f10c8762452ae9902f1f8480de15ee104b6d87232fb8e73b46ed02376", 2159104},
	{"synthetic/root1.vmdk", "vmfsSparse", "bac38133a4ad9e66ef4e661d940f0584205116009bf00084bfd5f64dada39c3e", 12591616},
	{"synthetic/root1-cowd.vmdk", "vmfsSparse", "bac38133a4ad9e66ef4e661d940f0584205116009bf00084bfd5f64dada39c3e", 12591616},
	{"synthetic/root128.vmdk", "vmfsSparse", "8623b015321a127cacdd26164096d743f2396159e69e31017cc1364fea5433a0", 12591616},
	{"synthetic/s.vmdk", "monolithicSparse", "8b24d1fe109f59c93abe0663aba69c41d8cd1491636c337a05372f201445683e", 20480000},
	{"synthetic/s-000001.vmdk", "seSparse", "f7237a1eacbe55f16c9660fbfd1d56ccd9b7cd07bddad156a3212086161e408a", 20480000},
	{"tools/compressed_stream_opt.vmdk", "streamOptimized", "55f4f09be519d8702500e4442b9efd7d58c912ea774d5f767c2444a02bcf8080", 65536},
	{"tools/dfvfs_ext2.vmdk", "monolithicSparse", "a6c2f0e39afe6c6ab432ca5465349fcefe8dc944398e97b2d957d3f89dbb5d80", 4194304},
	{"tools/plaso_image.vmdk", "monolithicSparse", "854c3db1c4a07a241e2ed9fbd8892adf2adc662c7862a75deed26f3483f414c9", 102400},
	{"tools/stream_opt.vmdk", "streamOptimized", "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58", 1048576},
	{"tools/tw_sparse.vmdk", "twoGbMaxExtentSparse", "bb9f8df61474d25e71fa00722318cd387396ca1736605e1248821cc0de3d3af8", 4194304},
}

// digestByReading hashes all bytes through ReadAt, in steps that fit no grain.
func digestByReading(t *testing.T, im disk.Image) string {
	t.Helper()
	h := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{io.NewSectionReader(im, 0, im.Size())}, make([]byte, 1<<20-512)); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// digestByRuns hashes what the runs say: data is read, the rest is zeros.
// It fails if the runs leave gaps or overlap.
func digestByRuns(t *testing.T, im disk.Image) string {
	t.Helper()
	h := sha256.New()
	zeros, buf := make([]byte, 1<<20), make([]byte, 1<<20)
	at := int64(0)
	for r, err := range im.Runs(0, im.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Offset != at || r.Length <= 0 {
			t.Fatalf("run at %d of %d bytes, expected one at %d", r.Offset, r.Length, at)
		}
		for at < r.End() {
			n := min(r.End()-at, 1<<20)
			b := zeros[:n]
			if r.Kind == disk.Data {
				b = buf[:n]
				if err := disk.ReadFull(im, b, at); err != nil {
					t.Fatal(err)
				}
			}
			h.Write(b)
			at += n
		}
	}
	if at != im.Size() {
		t.Fatalf("the runs end at %d of %d", at, im.Size())
	}
	return hex.EncodeToString(h.Sum(nil))
}

func TestCorpus(t *testing.T) {
	for _, tt := range corpusDigests {
		t.Run(tt.file, func(t *testing.T) {
			if testing.Short() && tt.size > 1<<30 {
				t.Skip("hashes 16 GiB")
			}
			d, err := Open(testenv.Corpus(t, "vmdk/"+tt.file), Options{Warn: func(s string) { t.Error("warning:", s) }})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if d.Size() != tt.size || d.Info().Kind != tt.kind {
				t.Errorf("%s of %d bytes, want %s of %d", d.Info().Kind, d.Size(), tt.kind, tt.size)
			}
			if err := d.Check(t.Context()); err != nil {
				t.Error("Check:", err)
			}
			if got := digestByRuns(t, d); got != tt.digest {
				t.Errorf("by runs the content is %s, want %s", got, tt.digest)
			}
			if tt.size > 1<<30 {
				return // zeros only: the runs have shown it
			}
			if got := digestByReading(t, d); got != tt.digest {
				t.Errorf("the content is %s, want %s", got, tt.digest)
			}
		})
	}
}

func TestCorpusRefused(t *testing.T) {
	for file, want := range map[string]error{
		"malformed/vmdk-invalid.img":             disk.ErrCorrupt,
		"native/twoGbMaxExtentSparse-s001.vmdk":  disk.ErrUnsupported,
		"tools/tw_sparse-s001.vmdk":              disk.ErrUnsupported,
		"synthetic/a-000001-delta.vmdk":          disk.ErrUnsupported,
		"synthetic/s-000001-sesparse.vmdk":       disk.ErrUnsupported,
		"synthetic/expected.json":                disk.ErrUnknown,
		"native/vmfs_thick-flat.vmdk":            disk.ErrUnknown,
		"descriptors/flat.vmdk":                  os.ErrNotExist,
		"descriptors/ms3-win.vmdk":               os.ErrNotExist,
		"descriptors/vmfs_thick-000001.vmdk":     os.ErrNotExist,
		"descriptors/libvmdk-descriptor_file.1":  disk.ErrOutside,
		"vmx/vmx2xml-esx-in-the-wild-1.vmx":      disk.ErrUnknown,
		"vmx/vmx2xml-case-insensitive-2.vmx":     disk.ErrUnknown,
		"descriptors/this-file-does-not-exist.v": os.ErrNotExist,
	} {
		t.Run(file, func(t *testing.T) {
			path := filepath.Join(testenv.Corpus(t, "vmdk"), filepath.FromSlash(file))
			d, err := Open(path, Options{})
			if err == nil {
				d.Close()
				t.Fatal("was opened")
			}
			if !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		})
	}
}
