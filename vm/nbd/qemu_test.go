// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package nbd_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/vm/nbd"
)

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), testenv.Tool(t, name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// serve runs qemu-nbd and returns its socket.
func serve(t testing.TB, args ...string) string {
	t.Helper()
	sock := filepath.Join(t.TempDir(), "nbd")
	cmd := exec.Command(testenv.Tool(t, "qemu-nbd"), append([]string{"--read-only", "--persistent", "--shared=8", "-k", sock}, args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for range 500 {
		if _, err := os.Stat(sock); err == nil {
			return sock
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("qemu-nbd does not listen: %s", said.String())
	return ""
}

const size = 32<<20 + 4096

// image makes a qcow2 with content, then a bitmap, then changes; it returns the
// content and which 64 KiB blocks changed behind the bitmap.
func image(t *testing.T) (path string, content []byte, dirty map[int64]bool) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "disk.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", path, fmt.Sprint(size))
	content, dirty = make([]byte, size), map[int64]bool{}
	r := rand.New(rand.NewPCG(3, 4))
	change := func(n int, seen map[int64]bool) {
		args := []string{"-f", "qcow2", path}
		for i := range n {
			off := r.Int64N(size/4096) * 4096
			length := min(int64(4096*(1+r.IntN(60))), size-off)
			c := fmt.Sprintf("write -P 0x%x %d %d", i+1, off, length)
			fill := byte(i + 1)
			if i%4 == 3 {
				c, fill = fmt.Sprintf("write -z -u %d %d", off, length), 0
			}
			args = append(args, "-c", c)
			copy(content[off:], bytes.Repeat([]byte{fill}, int(length)))
			for b := off / 65536; b <= (off+length-1)/65536; b++ {
				seen[b] = true
			}
		}
		run(t, "qemu-io", args...)
	}
	change(60, map[int64]bool{})
	run(t, "qemu-img", "bitmap", "--add", path, "b0")
	change(10, dirty)
	return path, content, dirty
}

func TestReadsWhatQEMUServes(t *testing.T) {
	testenv.Tool(t, "qemu-io")
	path, content, dirty := image(t)
	sock := serve(t, "-f", "qcow2", "-B", "b0", path)
	for _, confirm := range []bool{false, true} {
		im, err := nbd.Open(t.Context(), nbd.Options{Dial: nbd.DialUnix(sock), Bitmaps: []string{"b0"}, ConfirmZeros: confirm})
		if err != nil {
			t.Fatal(err)
		}
		if im.Size() != size || len(im.Bitmaps()) != 1 {
			t.Errorf("size %d, bitmaps %v", im.Size(), im.Bitmaps())
		}
		checkReads(t, im, content)
		checkRuns(t, im, content, sock)
		for off, c := int64(0), 0; off < size; off, c = off+65536, c+1 {
			for r, err := range im.Dirty("b0", off, 65536) {
				if want := dirty[int64(c)]; err != nil || r.Offset != off || r.Length != min(65536, size-off) || (r.Kind == disk.Data) != want {
					t.Fatalf("block %d: %+v, %v, dirty %v", c, r, err, want)
				}
			}
		}
		if err := im.Close(); err != nil {
			t.Error(err)
		}
		if _, err := im.ReadAt(make([]byte, 512), 0); err == nil {
			t.Error("a read after Close succeeds")
		}
	}
}

// checkReads reads random ranges, unaligned ones too, from several goroutines.
func checkReads(t *testing.T, im disk.Image, content []byte) {
	t.Helper()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for range 20 {
				off := r.Int64N(size)
				p := make([]byte, 1+r.IntN(3<<20))
				n, err := im.ReadAt(p, off)
				want := content[off:min(off+int64(len(p)), size)]
				if n != len(want) || (err == io.EOF) != (n < len(p)) || err != nil && err != io.EOF || !bytes.Equal(p[:n], want) {
					t.Errorf("%d bytes at %d: %d, %v", len(p), off, n, err)
				}
			}
		})
	}
	wg.Wait()
}

// checkRuns compares the runs with the content and with nbdinfo.
func checkRuns(t *testing.T, im disk.Image, content []byte, sock string) {
	t.Helper()
	var want []struct {
		Offset, Length int64
		Type           int
	}
	if err := json.Unmarshal([]byte(run(t, "nbdinfo", "--map", "--json", "nbd+unix:///?socket="+sock)), &want); err != nil {
		t.Fatal(err)
	}
	zero := make([]bool, size/512)
	for _, w := range want {
		for i := w.Offset / 512; w.Type&2 != 0 && i < (w.Offset+w.Length)/512; i++ {
			zero[i] = true
		}
	}
	end, zeros := int64(0), 0
	for r, err := range im.Runs(0, size) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Offset != end {
			t.Fatalf("run %+v behind %d", r, end)
		}
		end = r.End()
		if r.Kind == disk.Zero {
			zeros++
			if len(bytes.Trim(content[r.Offset:end], "\x00")) != 0 {
				t.Errorf("%+v is not zero", r)
			}
		}
		for i := r.Offset / 512; i < end/512; i++ {
			if zero[i] != (r.Kind == disk.Zero) {
				t.Fatalf("%+v: nbdinfo says zero %v", r, zero[i])
			}
		}
	}
	if end != size || zeros < 5 {
		t.Errorf("runs end at %d, %d of zeros", end, zeros)
	}
	for r, err := range im.Runs(1000, 3) { // clipped
		if err != nil || r.Offset != 1000 || r.Length != 3 {
			t.Errorf("%+v, %v", r, err)
		}
	}
	for r := range im.Runs(size, 1) {
		t.Errorf("%+v behind the end", r)
	}
}

func TestServerRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	sock := serve(t, "-f", "raw", "-x", "there", path)
	if _, err := nbd.Open(t.Context(), nbd.Options{Dial: nbd.DialUnix(sock), Export: "not there"}); err == nil || !strings.Contains(err.Error(), `no export "not there"`) {
		t.Errorf("no such export: %v", err)
	}
	if _, err := nbd.Open(t.Context(), nbd.Options{Dial: nbd.DialUnix(sock), Export: "there", Bitmaps: []string{"b9"}}); !strings.Contains(fmt.Sprint(err), "qemu:dirty-bitmap:b9") || !errors.Is(err, disk.ErrMismatch) {
		t.Errorf("no such bitmap: %v", err)
	}
}

// BenchmarkRead reads an export of data in pieces of 1 MiB, by two workers, and
// beside it by nbdcopy.
func BenchmarkRead(b *testing.B) {
	const large = 256 << 20
	path := filepath.Join(b.TempDir(), "disk.raw")
	content := make([]byte, large)
	_, _ = rand.NewChaCha8([32]byte{}).Read(content)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		b.Fatal(err)
	}
	sock := serve(b, "-f", "raw", path)
	b.Run("vmstream", func(b *testing.B) {
		im, err := nbd.Open(b.Context(), nbd.Options{Dial: nbd.DialUnix(sock)})
		if err != nil {
			b.Fatal(err)
		}
		defer im.Close()
		b.SetBytes(large)
		for b.Loop() {
			readAll(b, im, large, 2)
		}
	})
	b.Run("nbdcopy", func(b *testing.B) {
		b.SetBytes(large)
		for b.Loop() {
			run(b, "nbdcopy", "nbd+unix:///?socket="+sock, "null:")
		}
	})
}

func readAll(b *testing.B, im disk.Image, size, workers int64) {
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			p := make([]byte, 1<<20)
			for off := w << 20; off < size; off += workers << 20 {
				if _, err := im.ReadAt(p, off); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
