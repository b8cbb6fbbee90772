// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vmstream/vmstream/internal/scsilab/fabric"
)

// makeLUNs makes disks, and returns the variables that name them.
func makeLUNs() ([]string, error) {
	const size = 64 << 20
	var env []string
	// The target keeps persistent reservations here.
	if err := errors.Join(os.MkdirAll("/var/target/pr", 0o755), os.MkdirAll("/var/target/alua", 0o755)); err != nil {
		return nil, err
	}
	for i, d := range []struct {
		name, serial, env string
		block             int
	}{{"a", "600d0000000a", "LUN_A", 512}, {"b", "600d0000000b", "LUN_B", 4096}} {
		store, err := fabric.NewFile(d.name, size, d.block, d.serial)
		if err != nil {
			return nil, err
		}
		env = append(env, d.env+"_STORE="+string(store))
		for _, h := range []struct {
			host fabric.Host
			env  string
			lun  int
		}{{fabric.HostA, d.env, i}, {fabric.HostB, d.env + "_OTHER", i + 4}} {
			address, err := fabric.Present(h.host, h.lun, store)
			if err != nil {
				return nil, err
			}
			named, err := disk(h.env, address)
			if err != nil {
				return nil, err
			}
			env = append(env, named...)
		}
	}
	thin, err := debugDisk()
	return append(env, thin...), err
}

// disk returns the variables that name a disk.
func disk(env, address string) ([]string, error) {
	node, err := fabric.Wait(address, "block/sd*")
	if err != nil {
		return nil, err
	}
	generic, err := fabric.Wait(address, "scsi_generic/sg*")
	return []string{env + "=" + node, env + "_SG=" + generic, env + "_HCTL=" + address}, err
}

// debugDisk is the disk of the module scsi_debug.
func debugDisk() ([]string, error) {
	names, err := filepath.Glob("/sys/class/scsi_host/host*/proc_name")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if b, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(b)) == "scsi_debug" {
			host := strings.TrimPrefix(filepath.Base(filepath.Dir(name)), "host")
			return disk("LUN_THIN", host+":0:0:0")
		}
	}
	return nil, fmt.Errorf("no host of scsi_debug among %v", names)
}
