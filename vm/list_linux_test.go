// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"github.com/vmstream/vmstream/vm"
)

// TestListPermissions searches directories and reads files that it may not: as
// root, by giving up root's rights to files on one thread.
func TestListPermissions(t *testing.T) {
	config := "config.version = \"8\"\n"
	dir := tree(t, map[string]string{"a/a.vmx": config, "closed/x.vmx": config, "z/closed.vmx": config, "z/closed.cfg": config, "z/z.vmx": config})
	for _, name := range []string{"closed", "z/closed.vmx", "z/closed.cfg"} {
		if err := os.Chmod(filepath.Join(dir, name), 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "closed"), 0o700) })
	for p := dir; p != "/"; p = filepath.Dir(p) { // let others reach it
		if st, err := os.Stat(p); err == nil && st.Mode().Perm()&0o5 != 0o5 && os.Getuid() == 0 {
			if err := os.Chmod(p, st.Mode().Perm()|0o55); err != nil {
				t.Fatal(err)
			}
		}
	}
	if os.Getuid() == 0 {
		for _, name := range []string{"a/a.vmx", "z/z.vmx"} {
			if err := os.Chmod(filepath.Join(dir, name), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	var found []vm.Summary
	var errs []error
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if os.Getuid() == 0 {
			if err := syscall.Setfsuid(65534); err != nil {
				done <- err
				return
			}
		}
		found, errs = list(t.Context(), []string{dir}, vm.ListOptions{})
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Skipf("cannot give up root's rights: %v", err)
	}
	if got, want := paths(dir, found), []string{"a/a.vmx", "z/closed.vmx", "z/z.vmx"}; !slices.Equal(got, want) {
		t.Fatalf("found %q, want %q (%v)", got, want, errs)
	}
	if !errors.Is(found[1].Err, fs.ErrPermission) {
		t.Errorf("z/closed.vmx: %v", found[1].Err)
	}
	if len(errs) != 2 || !errors.Is(errs[0], fs.ErrPermission) || !errors.Is(errs[1], fs.ErrPermission) {
		t.Errorf("errors %v", errs)
	}
}
