// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package snapshot

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vmstream/vmstream/disk"
)

// lockFile opens a file and locks it. The lock is gone when the process is.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("the run that made it has not ended: %w", disk.ErrInUse)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// unlock ends the lock and closes the file. Closing alone is not enough: a process
// that is just being started has a copy for a moment.
func unlock(f *os.File) error {
	return errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.Close())
}

// checkPrivate refuses a directory that others can write to.
func checkPrivate(dir string) error {
	st, err := os.Stat(dir)
	if err != nil {
		return err
	}
	owner := -1
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		owner = int(sys.Uid)
	}
	if st.Mode().Perm()&0o022 != 0 || owner != os.Geteuid() && owner != 0 {
		return fmt.Errorf("%s: somebody else can write to it (mode %o, owner %d), and what is noted there is run: %w; choose another with --state-dir", dir, st.Mode().Perm(), owner, disk.ErrUnsupported)
	}
	return nil
}
