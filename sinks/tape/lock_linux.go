// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// locks: cartridges are.
const locks = true

// lock has a cartridge for one user, as a drive is.
func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errBusy
	}
	return err
}
