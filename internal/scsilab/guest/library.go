// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/vmstream/vmstream/internal/scsilab/fabric"
	"github.com/vmstream/vmstream/internal/scsilab/library"
)

// imageNode has the tapes, if they are kept.
const imageNode = "/dev/vda"

// part is a device of the library.
type part struct {
	name   string
	device library.Device
	env    string // variable that names it
	class  string // of its node
}

// makeLibrary makes a library, and returns the variables that name its devices.
func makeLibrary() ([]string, error) {
	carts, err := cartridges()
	if err != nil || len(carts) == 0 {
		return nil, err
	}
	drives := []*library.Drive{{Serial: "LABDRV0"}, {Serial: "LABDRV1"}}
	changer := &library.Changer{Drives: drives, Slots: carts}
	changer.Fill()
	var env []string
	for i, p := range []part{
		{"changer", changer, "CHANGER", "scsi_generic/sg*"}, {"drive0", drives[0], "TAPE_NST", "scsi_tape/nst[0-9]"}, {"drive1", drives[1], "TAPE2_NST", "scsi_tape/nst[0-9]"},
	} {
		store, err := fabric.NewUser(p.name)
		if err != nil {
			return nil, err
		}
		// It has to answer before it is presented, which looks at it.
		if err := library.Serve(p.name, p.device); err != nil {
			return nil, err
		}
		address, err := fabric.Present(fabric.Tapes, i, store)
		if err != nil {
			return nil, err
		}
		node, err := fabric.Wait(address, p.class)
		if err != nil {
			return nil, err
		}
		env = append(env, p.env+"="+node)
	}
	return env, nil
}

func cartridges() ([]*library.Cartridge, error) {
	n, err := number("scsilab_tapes")
	capacity, err2 := number("scsilab_capacity")
	warning, err3 := number("scsilab_warning")
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
