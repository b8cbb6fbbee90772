// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/vmstream/vmstream/disk"
)

// TestCheckInWindows looks for grains used twice in a file that is too large
// to be looked at in one pass, and therefore not while it is being opened.
func TestCheckInWindows(t *testing.T) {
	f := make([]fate, 4096)
	for i := range f {
		f[i] = stored
	}
	image := genCOWD(make([]byte, 4096*512), f, 1, 1, true)
	table := int(binary.LittleEndian.Uint32(image[2048:])) * 512
	for name, tt := range map[string]struct {
		first, second uint32
		want          error
	}{
		"same sector in the second window": {duplicateWindow + 5, duplicateWindow + 5, disk.ErrCorrupt},
		"last sector of the first window":  {duplicateWindow - 1, duplicateWindow - 1, disk.ErrCorrupt},
		"neighbours over the border":       {duplicateWindow - 1, duplicateWindow, nil},
	} {
		t.Run(name, func(t *testing.T) {
			put32(image, table, tt.first)
			put32(image, table+4, tt.second)
			path := writeFile(t, filepath.Join(t.TempDir(), "x.vmdk"), image)
			if err := os.Truncate(path, 5<<29); err != nil {
				t.Fatal(err)
			}
			d := openDisk(t, path, Options{})
			if err := d.Check(t.Context()); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := d.Check(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: %v", err)
			}
		})
	}
}

// TestOverlappingGrains: grains need not begin at multiples of their size,
// but must not share sectors.
func TestOverlappingGrains(t *testing.T) {
	f := []fate{stored, stored, stored, stored}
	for shift, want := range map[int]error{0: nil, 1: disk.ErrCorrupt, 15: disk.ErrCorrupt, 16: disk.ErrCorrupt, -1: disk.ErrCorrupt} {
		image := genCOWD(make([]byte, 64*512), f, 16, 1, true)
		table := int(binary.LittleEndian.Uint32(image[2048:])) * 512
		at := int(binary.LittleEndian.Uint32(image[table+8:]))
		put32(image, table+8, uint32(at+shift))
		path := writeFile(t, filepath.Join(t.TempDir(), "x.vmdk"), image)
		d, err := Open(path, Options{})
		if !errors.Is(err, want) {
			t.Errorf("shifted by %d: %v, want %v", shift, err, want)
		}
		if err == nil {
			d.Close()
		}
	}
}

// TestStoredShort: the last grain may end with the disk, not before.
func TestStoredShort(t *testing.T) {
	content := patchwork(100*512, 5)
	text := descriptorText(TypeMonolithicSparse, 1, NoParent, "", `RW 100 SPARSE "x.vmdk"`)
	image := genHosted(content, []fate{stored}, 128, 1, true, text)
	for cut, want := range map[int]error{0: nil, 28 * 512: nil, 28*512 + 1: disk.ErrTruncated} {
		path := writeFile(t, filepath.Join(t.TempDir(), "x.vmdk"), image[:len(image)-cut])
		d, err := Open(path, Options{})
		if !errors.Is(err, want) {
			t.Errorf("%d bytes cut off: %v, want %v", cut, err, want)
		}
		if err == nil {
			checkContent(t, d, content)
			d.Close()
		}
	}
}

// TestShrinkingFile: a file that becomes shorter under the reader gives errors.
func TestShrinkingFile(t *testing.T) {
	image, _ := damageHosted(t)
	path := writeFile(t, filepath.Join(t.TempDir(), "x.vmdk"), image)
	d := openDisk(t, path, Options{})
	if err := os.Truncate(path, 128*512); err != nil {
		t.Fatal(err)
	}
	if err := disk.ReadFull(d, make([]byte, d.Size()), 0); !errors.Is(err, disk.ErrTruncated) {
		t.Errorf("%v, want truncated", err)
	}
}

// TestMixedGrains reads an extent of which every other grain is stored in
// another link, with grains of different sizes.
func TestMixedGrains(t *testing.T) {
	dir, want := chainDir(t, mib)
	hint := "base.vmdk"
	for i, grain := range []int{128, 1, 16} {
		content := patchwork(mib, uint64(i+100))
		f := make([]fate, mib/512/grain)
		for j := range f {
			f[j] = fate(j % 2)
		}
		name := string(rune('a' + i))
		writeFile(t, filepath.Join(dir, name), genCOWD(content, f, grain, 1, false))
		writeFile(t, filepath.Join(dir, name+".vmdk"), []byte(descriptorText(TypeVMFSSparse, uint32(i+2), uint32(i+1), hint, `RW 2048 VMFSSPARSE "`+name+`"`)))
		want = overlayModel(want, content, f, grain*512)
		hint = name + ".vmdk"
	}
	checkContent(t, openDisk(t, filepath.Join(dir, hint), Options{}), want)
}
