// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	config = "/sys/kernel/config"
	target = config + "/target"
)

// Host is a host adapter that is looped back to the target, by its name.
type Host string

// The host adapters of the guest.
const (
	HostA Host = "naa.5001405000000001"
	HostB Host = "naa.5001405000000002"
	Tapes Host = "naa.5001405000000003"
)

// Store is what is presented as a LUN: a directory of configfs.
type Store string

// Mount makes the settings of the target appear.
func Mount() error {
	if err := unix.Mount("configfs", config, "configfs", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount %s: %w", config, err)
	}
	return nil
}

// set writes a setting.
func set(path, value string) error { return os.WriteFile(path, []byte(value+"\n"), 0o644) }

// NewUser makes a device whose commands a process answers, as package library does. It
// has to answer before it is presented.
func NewUser(name string) (Store, error) {
	dir := filepath.Join(target, "core/user_0", name)
	return Store(dir), errors.Join(
		os.MkdirAll(dir, 0o755),
		set(filepath.Join(dir, "control"), "dev_config=vmstream/"+name+",dev_size=1048576"),
		set(filepath.Join(dir, "enable"), "1"))
}

// NewFile makes a disk of a new file in memory. The serial number is hexadecimal, and
// its id is made from it. UNMAP and WRITE SAME work on it.
func NewFile(name string, sizeBytes int64, blockBytes int, serial string) (Store, error) {
	dir, file := filepath.Join(target, "core/fileio_0", name), filepath.Join("/tmp", "lun-"+name)
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, sizeBytes), os.MkdirAll(dir, 0o755)); err != nil {
		return "", err
	}
	for _, s := range [][2]string{
		{"control", fmt.Sprintf("fd_dev_name=%s,fd_dev_size=%d", file, sizeBytes)},
		{"enable", "1"},
		{"attrib/block_size", fmt.Sprint(blockBytes)},
		{"wwn/vpd_unit_serial", serial},
		{"attrib/emulate_tpu", "1"},
		{"attrib/emulate_tpws", "1"},
	} {
		if err := set(filepath.Join(dir, s[0]), s[1]); err != nil {
			return "", err
		}
	}
	return Store(dir), nil
}

func (h Host) group() string { return filepath.Join(target, "loopback", string(h), "tpgt_1") }

// lun is the directory of a LUN of a host.
func (h Host) lun(n int) string { return filepath.Join(h.group(), fmt.Sprintf("lun/lun_%d", n)) }

// Present has a host see a store as LUN n, and returns its address H:C:T:L.
func Present(h Host, n int, s Store) (string, error) {
	if _, err := os.Stat(h.group()); errors.Is(err, fs.ErrNotExist) {
		initiator := string(h[:len(h)-3]) + "1" + string(h[len(h)-2:])
		if err := errors.Join(os.MkdirAll(h.group(), 0o755), set(filepath.Join(h.group(), "nexus"), initiator)); err != nil {
			return "", err
		}
	}
	if err := os.MkdirAll(h.lun(n), 0o755); err != nil {
		return "", err
	}
	if err := os.Symlink(string(s), filepath.Join(h.lun(n), filepath.Base(string(s)))); err != nil {
		return "", err
	}
	b, err := os.ReadFile(filepath.Join(h.group(), "address"))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s:%d", strings.TrimSpace(string(b)), n), nil
}

// Withdraw has a host not see a store any more, which it sees as LUN n.
func Withdraw(h Host, n int, s Store) error {
	return errors.Join(os.Remove(filepath.Join(h.lun(n), filepath.Base(string(s)))), os.Remove(h.lun(n)))
}

// Wait waits for the node that a driver makes of a device: class is a directory with a
// pattern, such as block/sd*.
func Wait(address, class string) (string, error) {
	pattern := filepath.Join("/sys/class/scsi_device", address, "device", class)
	for range 500 {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		if len(found) > 0 {
			node := "/dev/" + filepath.Base(found[0])
			if _, err := os.Stat(node); err == nil {
				return node, nil
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	return "", fmt.Errorf("the kernel has not found %s", pattern)
}
