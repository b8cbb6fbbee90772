// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"errors"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// openByOthers says who has a file open, "" if nobody has or nobody can tell.
//
// A lease tells it for all processes of this host (fcntl(2)): a read lease is
// given only if nobody has the file open for writing, a write lease if nobody
// has it open at all. It is given back at once. File systems without leases, and
// those of other hosts, have locks at least.
func openByOthers(path string, s sharing) string {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "" // what needs the file will say so
	}
	defer f.Close() //nolint:errcheck // only looked at
	lease, why := unix.F_WRLCK, "a process has it open"
	if s == readersAllowed {
		lease, why = unix.F_RDLCK, "a process has it open for writing"
	}
	fd := f.Fd()
	_, err = unix.FcntlInt(fd, unix.F_SETLEASE, lease)
	if err == nil {
		_, _ = unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_UNLCK)
	}
	if errors.Is(err, unix.EAGAIN) && !leasesFromServer(fd) {
		return why
	}
	return lockedByOthers(fd)
}

// leasesFromServer reports if the file lies on a file system whose server hands
// leases out as it likes: NFS without a delegation and SMB without an oplock refuse
// one (EAGAIN) though nobody has the file open.
func leasesFromServer(fd uintptr) bool {
	var st unix.Statfs_t
	if unix.Fstatfs(int(fd), &st) != nil {
		return false
	}
	return slices.Contains([]int64{unix.NFS_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC}, int64(uint32(st.Type)))
}

// lockedByOthers looks for locks on any byte, as QEMU and NFS clients have them.
func lockedByOthers(fd uintptr) string {
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(fd, unix.F_OFD_GETLK, &lk); err == nil && lk.Type != unix.F_UNLCK {
		return "a process has locked a part of it"
	}
	return ""
}

func tryLock(d *os.File) bool {
	return !errors.Is(unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}
