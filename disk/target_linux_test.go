// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRawTargetFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("needs to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	path := filepath.Join(dir, "web01.raw")
	w, err := CreateRaw(path, 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.WriteAt(pattern(4<<20, 1), 0)
	if !errors.Is(err, unix.ENOSPC) || !bytes.Contains([]byte(err.Error()), []byte("web01.raw")) {
		t.Errorf("error %v does not name the file and ENOSPC", err)
	}
	if err := w.Close(); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("Close: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
}

func TestRawTargetLeavesHoles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.raw")
	w, err := CreateRaw(path, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteAt(pattern(4096, 1), 32<<20); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	if st.Size != 64<<20 || st.Blocks*512 > 1<<20 {
		t.Errorf("size %d with %d bytes allocated", st.Size, st.Blocks*512)
	}
}
