// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmstream/vmstream/internal/tapelab/library"
)

const (
	config    = "/sys/kernel/config"
	target    = config + "/target"
	imageNode = "/dev/vda" // the tapes, if they are kept
)

// names of the devices of the library, in the order of their LUNs.
var names = []string{"changer", "drive0", "drive1"}

// makeLibrary makes a library, and returns the variables that name its devices.
func makeLibrary() ([]string, error) {
	carts, err := cartridges()
	if err != nil {
		return nil, err
	}
	drives := []*library.Drive{{Serial: "LABDRV0"}, {Serial: "LABDRV1"}}
	changer := &library.Changer{Drives: drives, Slots: carts}
	changer.Fill()
	if err := unix.Mount("configfs", config, "configfs", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("mount %s: %w", config, err)
	}
	for _, name := range names {
		dir := filepath.Join(target, "core/user_0", name)
		err := errors.Join(
			os.MkdirAll(dir, 0o755),
			set(filepath.Join(dir, "control"), "dev_config=vmstream/"+name+",dev_size=1048576"),
			set(filepath.Join(dir, "enable"), "1"))
		if err != nil {
			return nil, err
		}
	}
	// They have to answer before they are linked: the link looks at them.
	if err := errors.Join(library.Serve(names[0], changer), library.Serve(names[1], drives[0]), library.Serve(names[2], drives[1])); err != nil {
		return nil, err
	}
	return link()
}

func cartridges() ([]*library.Cartridge, error) {
	n, err := number("tapelab_tapes")
	capacity, err2 := number("tapelab_capacity")
	warning, err3 := number("tapelab_warning")
	if err = errors.Join(err, err2, err3); err != nil {
		return nil, err
	}
	image, err := os.OpenFile(imageNode, os.O_RDWR|unix.O_SYNC, 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	carts := make([]*library.Cartridge, n)
	for i := range carts {
		var store library.Store
		if image != nil {
			store = library.Region{Store: image, At: int64(i) * 2 * capacity, Bytes: 2 * capacity}
		}
		if carts[i], err = library.NewCartridge(fmt.Sprintf("VOL%03d", i+1), capacity, warning, store); err != nil {
			return nil, err
		}
	}
	return carts, nil
}

// number is an option of the kernel's command line that the kernel does not know.
func number(name string) (int64, error) { return strconv.ParseInt(os.Getenv(name), 10, 64) }

// set writes a setting into a file of the kernel's.
func set(path, value string) error { return os.WriteFile(path, []byte(value+"\n"), 0o644) }

// link loops the devices back as LUNs of a SCSI host, and waits for their nodes.
func link() ([]string, error) {
	group := filepath.Join(target, "loopback/naa.5001405000000003/tpgt_1")
	if err := os.MkdirAll(group, 0o755); err != nil {
		return nil, err
	}
	if err := set(filepath.Join(group, "nexus"), "naa.5001405000000103"); err != nil {
		return nil, err
	}
	for i, name := range names {
		lun := filepath.Join(group, fmt.Sprintf("lun/lun_%d", i))
		if err := os.MkdirAll(lun, 0o755); err != nil {
			return nil, err
		}
		if err := os.Symlink(filepath.Join(target, "core/user_0", name), filepath.Join(lun, name)); err != nil {
			return nil, err
		}
	}
	b, err := os.ReadFile(filepath.Join(group, "address"))
	if err != nil {
		return nil, err
	}
	address := strings.TrimSpace(string(b))
	var all []string
	for _, n := range []struct{ variable, lun, kind string }{
		{"CHANGER", "0", "scsi_generic/sg*"}, {"TAPE_NST", "1", "scsi_tape/nst[0-9]"}, {"TAPE2_NST", "2", "scsi_tape/nst[0-9]"},
	} {
		node, err := wait(fmt.Sprintf("/sys/class/scsi_device/%s:%s/device/%s", address, n.lun, n.kind))
		if err != nil {
			return nil, err
		}
		all = append(all, n.variable+"="+node)
	}
	return all, nil
}

// wait waits for the node of a device.
func wait(pattern string) (string, error) {
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
