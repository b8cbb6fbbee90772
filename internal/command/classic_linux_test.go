// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/testenv"
)

// TestClassicDiskFull has too little space for a backup and for a restore.
func TestClassicDiskFull(t *testing.T) {
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=1m"); err != nil {
		why := fmt.Sprintf("needs the right to mount a small tmpfs: %v", err)
		if testenv.Required() && os.Geteuid() == 0 && !errors.Is(err, syscall.EPERM) {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	t.Cleanup(func() { _ = unix.Unmount(small, unix.MNT_DETACH) })
	v := newClassicVM(t, true)
	v.addRedo("web01.vmdk.REDO")
	before := contents(t, v.dir)
	backup := t.TempDir()
	if code, _, errs := v.snap("-d", backup); code != 0 {
		t.Fatal(errs)
	}
	for _, args := range [][]string{nil, {"--ignore-space"}, {"--ignore-space", "-l"}} {
		code, out, errs := v.snap(append([]string{"-d", small}, args...)...)
		says := "no space left on device"
		if args == nil {
			says = "--ignore-space tries it all the same"
		}
		if code != cli.ExitFailed || !strings.Contains(errs, says) || args == nil && strings.Contains(out, "Added redo log") {
			t.Errorf("vmsnap %v: exit code %d: %s%s", args, code, out, errs)
		}
		v.unchanged(before)
		empty(t, small)
		code, _, errs = run(t, append([]string{"vmres", "-C", small, filepath.Join(backup, "web01")}, args[:min(len(args), 1)]...)...)
		if code != cli.ExitFailed || !strings.Contains(errs, says) {
			t.Errorf("vmres %v: exit code %d: %s", args, code, errs)
		}
		empty(t, small)
	}
	sshStandIn(t, onThisHost)
	code, _, errs := v.snap("-d", backup, "-a", "h", "-R", filepath.Join(small, "web01"))
	if code != cli.ExitSink || !strings.Contains(errs, "the files could not be written") {
		t.Errorf("the other host is full: exit code %d: %s", code, errs)
	}
	empty(t, small)
	v.unchanged(before)
}

func empty(t *testing.T, dir string) {
	t.Helper()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("%s has %v, %v", dir, entries, err)
	}
}

// TestVmsnapSegments exports a disk of 5 GiB: files stay below 2 GiB.
func TestVmsnapSegments(t *testing.T) {
	testenv.Long(t)
	v := newClassicVM(t, true)
	f, err := os.OpenFile(v.path("web01.vmdk"), os.O_RDWR, 0)
	v.must(err)
	const size = 5 << 30
	v.must(f.Truncate(size))
	marks := []int64{2047<<20 - 512, 2047 << 20, 4 << 30, size - 512}
	for i, off := range marks {
		_, err := f.WriteAt([]byte{byte(i + 1)}, off)
		v.must(err)
	}
	v.must(f.Close())
	backup, to := t.TempDir(), t.TempDir()
	if code, _, errs := v.snap("-d", backup); code != 0 {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	disks := 0
	entries, err := os.ReadDir(filepath.Join(backup, "web01"))
	v.must(err)
	for _, e := range entries {
		st, err := e.Info()
		v.must(err)
		if strings.HasSuffix(e.Name(), ".vmdk") {
			disks++
		}
		if st.Size() >= 1<<31 {
			t.Errorf("%s has %d bytes", e.Name(), st.Size())
		}
	}
	if disks != 4 {
		t.Errorf("%d files of disks, expected a descriptor and 3 segments", disks)
	}
	if code, _, errs := run(t, "vmres", "-C", to, filepath.Join(backup, "web01")); code != cli.ExitWarnings {
		t.Fatalf("vmres: exit code %d: %s", code, errs)
	}
	r, err := os.Open(filepath.Join(to, "web01", "web01.vmdk"))
	v.must(err)
	defer r.Close()
	for i, off := range marks {
		var b [1]byte
		if _, err := r.ReadAt(b[:], off); err != nil || b[0] != byte(i+1) {
			t.Errorf("%d at %d, %v", b[0], off, err)
		}
	}
}
