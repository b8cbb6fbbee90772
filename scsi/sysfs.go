// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Sysfs is where Linux tells of its devices. The zero value is that of this machine.
type Sysfs struct {
	Root string // /sys if empty
	Dev  string // /dev if empty
}

func (s Sysfs) root() string { return cmp.Or(s.Root, "/sys") }
func (s Sysfs) dev() string  { return cmp.Or(s.Dev, "/dev") }

// LUN is a device as a host sees it on one path.
type LUN struct {
	Address Address `json:"address"`
	Inquiry
	Identity
	ID         ID     `json:"id,omitempty"`      // the best one
	Node       string `json:"node,omitempty"`    // /dev/sdb, /dev/nst0, /dev/sch0
	Generic    string `json:"generic,omitempty"` // /dev/sg1
	SizeBytes  int64  `json:"size_bytes,omitempty"`
	BlockBytes int64  `json:"block_bytes,omitempty"`
	Thin       bool   `json:"thin,omitempty"`
	State      string `json:"state"` // running, offline, blocked …
	Driver     string `json:"driver,omitempty"`
	Names      []Name `json:"names,omitempty"` // of a Table
	Paths      int    `json:"paths,omitempty"` // how many of them, this one with it
}

// CommandNode is the node that commands are given to: the disk itself, or the generic
// device of others.
func (l *LUN) CommandNode() string {
	if l.Type == TypeDisk && l.Node != "" {
		return l.Node
	}
	return cmp.Or(l.Generic, l.Node)
}

// Most of what is in sysfs is a line; pages are some KiB.
const attributeLimit = 64 << 10

// attribute reads a file of sysfs; nothing if it is not there or cannot be read.
func attribute(parts ...string) []byte {
	f, err := os.Open(filepath.Join(parts...))
	if err != nil {
		return nil
	}
	defer f.Close() // only read
	b, err := io.ReadAll(io.LimitReader(f, attributeLimit))
	if err != nil {
		return nil
	}
	return b
}

// text reads a line.
func text(parts ...string) string {
	return trim([]byte(strings.TrimSuffix(string(attribute(parts...)), "\n")))
}

// number reads a number; 0 if there is none.
func number(parts ...string) int64 {
	n, err := strconv.ParseInt(text(parts...), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// LUNs returns the devices of this machine in the order of their addresses. No command
// is given to any: what the kernel knows of them is read.
func (s Sysfs) LUNs() ([]LUN, error) {
	dir := filepath.Join(s.root(), "class", "scsi_device")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) { // the kernel has no SCSI
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []LUN
	for _, e := range entries {
		a, err := ParseAddress(e.Name())
		if err != nil {
			continue
		}
		all = append(all, s.read(a, filepath.Join(dir, e.Name(), "device")))
	}
	slices.SortFunc(all, func(a, b LUN) int { return a.Address.compare(b.Address) })
	countPaths(all)
	return all, nil
}

// countPaths says of each how many have its id.
func countPaths(all []LUN) {
	paths := map[ID]int{}
	for i := range all {
		paths[all[i].ID]++
	}
	for i := range all {
		if id := all[i].ID; id != "" {
			all[i].Paths = paths[id]
		}
	}
}

// read reads what there is of a device in its directory.
func (s Sysfs) read(a Address, dir string) LUN {
	l := LUN{
		Address: a,
		Inquiry: Inquiry{Type: Type(number(dir, "type") & 31), Vendor: text(dir, "vendor"), Model: text(dir, "model"), Revision: text(dir, "rev")},
		State:   text(dir, "state"), Driver: text(s.root(), "class", "scsi_host", fmt.Sprintf("host%d", a.Host), "proc_name"),
	}
	if b, err := pageBody(attribute(dir, "vpd_pg80"), pageSerial); err == nil {
		l.Serial = trim(b)
	}
	if b, err := pageBody(attribute(dir, "vpd_pg83"), pageIdentity); err == nil {
		l.IDs = parseDesignators(b)
	}
	if id, err := ParseID(text(dir, "wwid")); err == nil && len(l.IDs) == 0 {
		l.IDs = []ID{id}
	}
	l.ID = l.Best()
	l.Generic = s.node(dir, "scsi_generic", `^sg\d+$`)
	switch l.Type {
	case TypeTape:
		l.Node = s.node(dir, "scsi_tape", `^nst\d+$`)
	case TypeChanger:
		l.Node = s.node(dir, "scsi_changer", `^sch\d+$`)
	default:
		if l.Node = s.node(dir, "block", `^s[dr][a-z0-9]+$`); l.Node != "" {
			block := filepath.Join(dir, "block", filepath.Base(l.Node))
			l.SizeBytes, l.BlockBytes = number(block, "size")*512, number(block, "queue", "logical_block_size")
			l.Thin = number(dir, "scsi_disk", a.String(), "thin_provisioning") != 0
		}
	}
	return l
}

// node returns the node of a device that a driver has made; "" if there is none.
func (s Sysfs) node(dir, class, pattern string) string {
	entries, err := os.ReadDir(filepath.Join(dir, class))
	if err != nil {
		return ""
	}
	match := regexp.MustCompile(pattern)
	for _, e := range entries {
		if match.MatchString(e.Name()) {
			return filepath.Join(s.dev(), e.Name())
		}
	}
	return ""
}

// Partition returns the node of a partition of a disk, or of the disk itself for 0.
func (s Sysfs) Partition(l *LUN, n int) (string, error) {
	if l.Node == "" || l.Type != TypeDisk {
		return "", fmt.Errorf("%v: no disk: %w", l.Address, ErrNoDevice)
	}
	if n == 0 {
		return l.Node, nil
	}
	dir := filepath.Join(s.root(), "class", "scsi_device", l.Address.String(), "device", "block", filepath.Base(l.Node))
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if number(dir, e.Name(), "partition") == int64(n) {
			return filepath.Join(s.dev(), e.Name()), nil
		}
	}
	return "", fmt.Errorf("%s: no partition %d: %w", l.Node, n, ErrNoDevice)
}

// Hosts returns the numbers of the host adapters.
func (s Sysfs) Hosts() ([]int, error) {
	entries, err := os.ReadDir(filepath.Join(s.root(), "class", "scsi_host"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []int
	for _, e := range entries {
		if n, err := strconv.Atoi(strings.TrimPrefix(e.Name(), "host")); err == nil {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all, nil
}

// Rescan has a host adapter look for devices that are new. It needs root.
func (s Sysfs) Rescan(host int) error {
	path := filepath.Join(s.root(), "class", "scsi_host", fmt.Sprintf("host%d", host), "scan")
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("host%d: %w", host, ErrNoDevice)
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString("- - -\n") // any channel, target and LUN
	return errors.Join(err, f.Close())
}
