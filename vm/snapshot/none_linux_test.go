// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
)

// TestNoneClaimedDevice has somebody claim a block device, as a mount does.
func TestNoneClaimedDevice(t *testing.T) {
	losetup := testenv.Tool(t, "losetup")
	file := filepath.Join(t.TempDir(), "backing")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), losetup, "-f", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("needs the right to set up a loop device: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command(losetup, "-d", dev).Run() })

	r := &Request{Path: dev}
	s, err := Take(t.Context(), None{}, nil, r)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	mount, err := os.OpenFile(dev, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer mount.Close()
	if err := s.Check(t.Context()); !errors.Is(err, disk.ErrInUse) {
		t.Errorf("claimed while it was read: %v", err)
	}
	if err := s.Release(t.Context(), false); err != nil {
		t.Error(err)
	}
	if _, err := Take(t.Context(), None{}, nil, r); !errors.Is(err, disk.ErrInUse) || !strings.Contains(err.Error(), "--allow-in-use") {
		t.Errorf("claimed: %v", err)
	}
	r.AllowInUse = true
	if s, err = Take(t.Context(), None{}, nil, r); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Check(t.Context()), s.Release(t.Context(), true)); err != nil {
		t.Error(err)
	}
}
