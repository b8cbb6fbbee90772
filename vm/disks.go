// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm

import (
	"fmt"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// Mode is what becomes of the writes to a disk.
type Mode string

// The disk modes. A disk without one is persistent.
const (
	ModePersistent               Mode = "persistent"    // kept
	ModeNonpersistent            Mode = "nonpersistent" // to a redo log, dropped at power-off
	ModeUndoable                 Mode = "undoable"      // to a redo log; asks at power-off
	ModeAppend                   Mode = "append"        // to a redo log that stays until it is committed
	ModeIndependentPersistent    Mode = "independent-persistent"
	ModeIndependentNonpersistent Mode = "independent-nonpersistent"
)

// Independent reports if snapshots of the machine leave the disk out.
func (m Mode) Independent() bool {
	return m == ModeIndependentPersistent || m == ModeIndependentNonpersistent
}

// Volatile reports if writes are dropped at power-off: the base is the disk.
func (m Mode) Volatile() bool {
	return m == ModeNonpersistent || m == ModeIndependentNonpersistent
}

// DiskRef is a disk that a configuration names.
type DiskRef struct {
	Key        string   // such as "scsi0:0", "ide1:0", "sata0:3", "nvme0:0"
	File       FileName // as of ESX 3 the top link of a chain, on ESX 2.x its base
	DeviceType string   // as written, "" if absent

	Mode        Mode   // "" if what is written is no known mode
	ModeWritten string // "" if absent

	// Adapter is buslogic, lsilogic, lsisas1068, pvscsi, ide, sata or nvme; "" if
	// the configuration does not name the SCSI controller's kind, and the name in
	// lower case if it is another one. The names of ESX 2.x, vmxbuslogic and
	// vmxlsilogic, are normalised.
	Adapter        string
	AdapterWritten string // the controller's virtualDev, "" if absent

	WriteThrough bool   // no write cache on the host
	Shared       bool   // other machines may write to the disk
	CTK          bool   // changed block tracking is on
	Filters      string // third-party I/O filters, "" if none
	Redo         string // current redo log as ESX 2.x and hosted products note it, "" if none

	// Raw is set in configurations of ESX 2.x: the file is the disk, without a
	// descriptor, and its content must not be asked what format it has.
	Raw bool
}

// Disks returns the disks in the order of buses (scsi, ide, sata, nvme),
// controllers and units, and warnings about devices that are not taken, one
// line each, beginning with the device.
//
// A device is a disk if it is present, its file ends in .vmdk or .dsk and its
// deviceType is absent or contains "disk". CD-ROMs are passed over silently, raw
// devices with a warning. An encrypted configuration, and a line about a device
// that cannot be read, are errors: a disk would be lost without a word.
func (c *Config) Disks() (refs []DiskRef, warnings []string, err error) {
	if c.Encrypted() {
		return nil, nil, configError("encryption.keySafe", -1, disk.ErrUnsupported, "the configuration is encrypted, its disks cannot be told: name them one by one, or decrypt the machine")
	}
	for _, b := range c.broken {
		if _, _, ok := parseDevice(b.key); ok {
			return nil, nil, configError(b.key, int64(b.offset), disk.ErrCorrupt, "line %d cannot be read: %s", b.number, b.why)
		}
	}
	for _, d := range c.devices() {
		ref, warns, err := c.diskRef(d)
		if err != nil {
			return nil, nil, err
		}
		for _, w := range warns {
			warnings = append(warnings, oneLine(d.String()+": "+w))
		}
		if ref != nil {
			refs = append(refs, *ref)
		}
	}
	raw := false
	for _, r := range refs {
		raw = raw || r.File.esx2() || strings.HasPrefix(fold(r.AdapterWritten), "vmx")
	}
	for i := range refs {
		refs[i].Raw = raw
	}
	return refs, warnings, nil
}

// diskRef returns the disk at d, nil if there is none.
func (c *Config) diskRef(d device) (*DiskRef, []string, error) {
	field := func(name string) string { return c.value(d.String() + "." + name) }
	name, nameKey := field("fileName"), d.String()+".fileName"
	if name == "" { // ESX 2.x
		name, nameKey = field("name"), d.String()+".name"
	}
	presentKey := d.String() + ".present"
	switch present, ok := c.Bool(presentKey); {
	case !ok && c.value(presentKey) != "":
		return nil, nil, configError(presentKey, -1, disk.ErrCorrupt, "%q is neither TRUE nor FALSE", c.value(presentKey))
	case !ok && isDiskName(name):
		return nil, []string{fmt.Sprintf("names the disk %q but is not marked present: not taken", name)}, nil
	case !present:
		return nil, nil, nil
	case !d.exists():
		return nil, []string{"no product has such a device: not taken"}, nil
	}
	if why, ok := notDisk(field("deviceType"), name); !ok {
		if why == "" {
			return nil, nil, nil
		}
		return nil, []string{why}, nil
	}
	file, why := checkFileName(name)
	if why != "" {
		return nil, nil, configError(nameKey, -1, disk.ErrCorrupt, "%s", why)
	}
	raw, _ := c.raw(nameKey)
	file.raw = strings.TrimSpace(unescapeBar(raw))
	ref := &DiskRef{
		Key: d.String(), File: file, DeviceType: field("deviceType"),
		ModeWritten: field("mode"), AdapterWritten: c.value(d.controllerKey() + ".virtualDev"),
		Filters: field("filters"), Redo: field("redo"),
	}
	ref.WriteThrough, _ = c.Bool(d.String() + ".writeThrough")
	ref.CTK, _ = c.Bool(d.String() + ".ctkEnabled")
	ref.Shared = c.shared(d)
	return ref, c.normalise(ref, d), nil
}

// normalise fills in the mode and the adapter and returns what is odd.
func (c *Config) normalise(ref *DiskRef, d device) []string {
	var warns []string
	switch m := Mode(fold(ref.ModeWritten)); m {
	case "":
		ref.Mode = ModePersistent
	case ModePersistent, ModeNonpersistent, ModeUndoable, ModeAppend, ModeIndependentPersistent, ModeIndependentNonpersistent:
		ref.Mode = m
	default:
		warns = append(warns, fmt.Sprintf("mode %q is not known", ref.ModeWritten))
	}
	ref.Adapter = d.bus
	if d.bus == "scsi" {
		ref.Adapter = fold(ref.AdapterWritten)
		switch ref.Adapter {
		case "", "buslogic", "lsilogic", "lsisas1068", "pvscsi":
		case "vmxbuslogic", "vmxlsilogic":
			ref.Adapter = strings.TrimPrefix(ref.Adapter, "vmx")
		default:
			warns = append(warns, fmt.Sprintf("adapter %q is not known", ref.AdapterWritten))
		}
	}
	if present, ok := c.Bool(d.controllerKey() + ".present"); ok && !present {
		warns = append(warns, d.controllerKey()+" is marked not present: the machine may not see this disk")
	}
	if strings.Contains(fold(ref.DeviceType), "raw") {
		warns = append(warns, fmt.Sprintf("deviceType %q: a physical disk, which others may write to", ref.DeviceType))
	}
	for _, name := range []string{"fileName", "name", "present", "mode"} {
		if n := c.count[fold(d.String()+"."+name)]; n > 1 {
			warns = append(warns, fmt.Sprintf("%s appears %d times: the first counts", name, n))
		}
	}
	return warns
}

// shared reports if the disk or its bus is shared with other machines.
func (c *Config) shared(d device) bool {
	for _, name := range []string{".shared", ".sharing"} {
		switch fold(c.value(d.String() + name)) {
		case "multi-writer", "true":
			return true
		}
	}
	bus := fold(c.value(d.controllerKey() + ".sharedBus"))
	return bus != "" && bus != "none"
}

func isDiskName(name string) bool {
	lower := fold(name)
	return strings.HasSuffix(lower, ".vmdk") || strings.HasSuffix(lower, ".dsk")
}

// notDisk says if a present device is a disk and, if it is not but may hold
// data that somebody misses, why it is not taken.
func notDisk(deviceType, name string) (why string, ok bool) {
	kind, lower := fold(deviceType), fold(name)
	backing := strings.HasPrefix(lower, "/dev/") || strings.HasPrefix(lower, "/vmfs/devices/") || strings.HasPrefix(lower, `\\.\`)
	switch {
	case strings.Contains(kind, "passthru"):
		return fmt.Sprintf("raw device %q (%s): not taken", name, deviceType), false
	case kind != "" && !strings.Contains(kind, "disk"):
		return "", false // a CD-ROM
	case name == "" && kind == "":
		return "is present but names no file: not taken", false
	case name == "":
		return fmt.Sprintf("is a disk (%s) but names no file: not taken", deviceType), false
	case backing:
		return fmt.Sprintf("raw device %q: not taken", name), false
	case isDiskName(name):
		return "", true
	case kind == "" && (strings.HasSuffix(lower, ".iso") || lower == "emptybackingstring" || lower == "auto detect"):
		return "", false // a CD-ROM that does not say so
	default:
		return fmt.Sprintf("%q ends neither in .vmdk nor in .dsk: not taken", name), false
	}
}
