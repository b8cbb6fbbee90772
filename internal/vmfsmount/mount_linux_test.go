// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfsmount

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/vmfs"
)

// unpack makes a sparse file of a volume of the corpus.
func unpack(t *testing.T, name string) *disk.File {
	t.Helper()
	in, err := os.Open(testenv.Corpus(t, "vmfs/synthetic/"+name))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	z, err := zstd.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	path := filepath.Join(t.TempDir(), "volume.img")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	size, buf := int64(0), make([]byte, 64<<10)
	for err == nil {
		var n int
		n, err = io.ReadFull(z, buf)
		if !disk.IsZero(buf[:n]) {
			if _, err := out.WriteAt(buf[:n], size); err != nil {
				t.Fatal(err)
			}
		}
		size += int64(n)
	}
	if err := errors.Join(out.Truncate(size), out.Close()); err != nil {
		t.Fatal(err)
	}
	f, err := disk.OpenRaw(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// mounted mounts a volume and returns where, and what ends that.
func mounted(t *testing.T, name string) (string, func()) {
	t.Helper()
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil || os.Geteuid() != 0 {
		t.Skip("needs /dev/fuse, and root: ", err)
	} else {
		_ = f.Close()
	}
	f := unpack(t, name)
	v, err := vmfs.Open([]vmfs.Device{{Name: f.Name(), R: f, SizeBytes: f.Size()}}, vmfs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- Mount(ctx, v, dir, Options{Ready: func() { close(ready) }}) }()
	select {
	case <-ready:
	case err := <-ended:
		if errors.Is(err, syscall.EPERM) {
			t.Skip("mounting is not permitted here: ", err)
		}
		t.Fatal(err)
	}
	stop := func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		ended <- nil
	}
	t.Cleanup(stop)
	return dir, stop
}

// TestMount compares what the kernel shows with what is known of the volumes.
func TestMount(t *testing.T) {
	for _, name := range []string{"a-v5-plain", "a-v6-plain"} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && name != "a-v5-plain" {
				t.Skip("one volume is enough")
			}
			dir, stop := mounted(t, name+".img.zst")
			b, err := os.ReadFile(testenv.Corpus(t, "vmfs/synthetic/"+name+".expected.json"))
			if err != nil {
				t.Fatal(err)
			}
			var x struct {
				Entries []struct {
					Path, Type, SHA256, Target string
					Size                       int64
					Runs                       [][3]any
				}
			}
			if err := json.Unmarshal(b, &x); err != nil {
				t.Fatal(err)
			}
			seen := 0
			for _, e := range x.Entries {
				if e.Path == "" { // no UTF-8: JSON has it in another way
					continue
				}
				seen++
				path := filepath.Join(dir, e.Path)
				fi, err := os.Lstat(path)
				if err != nil {
					t.Error(err)
					continue
				}
				switch {
				case fi.IsDir():
				case e.Type == "symlink":
					if target, err := os.Readlink(path); err != nil || target != e.Target {
						t.Errorf("%s: target %q, %v", e.Path, target, err)
					}
				case e.Type == "rdm":
					if _, err := os.Open(path); !errors.Is(err, syscall.EOPNOTSUPP) || fi.Size() != e.Size {
						t.Errorf("%s: %d bytes, %v", e.Path, fi.Size(), err)
					}
				default:
					if fi.Size() != e.Size {
						t.Errorf("%s: %d bytes, want %d", e.Path, fi.Size(), e.Size)
					}
					checkContent(t, path, e.SHA256, e.Size)
					checkHoles(t, path, e.Runs)
				}
			}
			walked := 0
			if err := filepath.WalkDir(dir, func(_ string, _ fs.DirEntry, err error) error { walked++; return err }); err != nil || walked < seen {
				t.Errorf("a walk finds %d of %d: %v", walked, seen, err)
			}
			if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
				t.Errorf("write: %v", err)
			}
			if f, err := os.Open(filepath.Join(dir, "web01")); err != nil { // in use while it is unmounted
				t.Error(err)
			} else {
				defer f.Close()
			}
			stop()
			if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
				t.Errorf("still mounted: %v, %v", names, err)
			}
		})
	}
}

func checkContent(t *testing.T, path, want string, size int64) {
	const most = 64 << 20
	if want == "" || size > most {
		return
	}
	f, err := os.Open(path)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil || hex.EncodeToString(sum.Sum(nil)) != want {
		t.Errorf("%s: digest %x, want %s, %v", path, sum.Sum(nil), want, err)
	}
}

// checkHoles compares the runs that lseek tells with those of the volume.
func checkHoles(t *testing.T, path string, runs [][3]any) {
	f, err := disk.OpenRaw(path)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	var want []disk.Run
	for _, r := range runs {
		run := disk.Run{Offset: int64(r[0].(float64)), Length: int64(r[1].(float64)), Kind: disk.Zero}
		if r[2] == "data" {
			run.Kind = disk.Data
		}
		if k := len(want) - 1; k >= 0 && want[k].Kind == run.Kind {
			want[k].Length += run.Length
			continue
		}
		want = append(want, run)
	}
	i := 0
	for r, err := range disk.Merge(f.Runs(0, f.Size())) {
		if err != nil || runs != nil && (i >= len(want) || r != want[i]) {
			t.Errorf("%s: run %+v, want %+v, %v", strings.TrimPrefix(path, "/"), r, want, err)
			return
		}
		i++
	}
}
