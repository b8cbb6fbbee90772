// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestForget changes what is below a block device, as a host does with a LUN: it is seen
// when the device has been told to forget, and not before.
func TestForget(t *testing.T) {
	losetup, err := exec.LookPath("losetup")
	if err != nil || os.Geteuid() != 0 {
		t.Skip("needs losetup, and root")
	}
	name := filepath.Join(t.TempDir(), "below")
	below, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer below.Close()
	if err := below.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), losetup, "--find", "--show", name).Output()
	if err != nil {
		t.Skip("there is no loop device: ", err)
	}
	loop := strings.TrimSpace(string(out))
	defer func() {
		if err := exec.Command(losetup, "--detach", loop).Run(); err != nil {
			t.Error(err)
		}
	}()
	d, err := OpenRaw(loop)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	read := func() []byte {
		b := make([]byte, 512)
		if _, err := d.ReadAt(b, 64<<10); err != nil {
			t.Fatal(err)
		}
		return b
	}
	if !d.Device() || !IsZero(read()) {
		t.Fatal("not an empty device")
	}
	beat := bytes.Repeat([]byte("beat"), 128)
	if _, err := below.WriteAt(beat, 64<<10); err != nil {
		t.Fatal(err)
	}
	if !IsZero(read()) {
		t.Log("the kernel keeps nothing of this device: nothing to forget")
	}
	d.Forget(64<<10, 512)
	if !bytes.Equal(read(), beat) {
		t.Error("what is read is what was there before")
	}
}
