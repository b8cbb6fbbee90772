// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vm/snapshot"
)

// The phases of a snapshot. What is found in QEMU says the rest.
const (
	phasePrepare = "prepare" // names are given out
	phaseMoment  = "moment"  // file systems may be frozen, overlays may be in use
	phaseTaken   = "taken"
	phaseFailed  = "failed" // being undone, the backup is no good
	phaseDone    = "done"   // being undone, the backup is complete
)

// record is what the journal has of a snapshot: the names of everything that is
// or may be made.
type record struct {
	Socket string `json:"socket"`
	Agent  string `json:"agent,omitempty"`
	Mode   Mode   `json:"mode"`
	// Marker is a node without content. QEMU has it as long as it is the
	// process in which the overlays were made.
	Marker    string        `json:"marker"`
	ServerDir string        `json:"server_dir,omitempty"` // has the socket of the NBD server that we start
	Disks     []*diskRecord `json:"disks"`
}

type diskRecord struct {
	Key    string `json:"key"`
	Device string `json:"device"` // qdev of QEMU
	Node   string `json:"node"`   // that the device is on without us
	Driver string `json:"driver"`
	File   string `json:"file"` // of the disk, as QEMU names it

	Temp     string   `json:"temp"` // scratch file or overlay
	TempNode string   `json:"temp_node"`
	FileNode string   `json:"file_node"`
	Job      string   `json:"job"`
	Export   string   `json:"export"`
	Bitmap   string   `json:"bitmap,omitempty"` // the new one
	Was      []string `json:"was,omitempty"`    // bitmaps that recorded before it
}

// load reads a record and checks that it can do no harm: files are removed on
// its word.
func load(e *snapshot.Entry) (*record, error) {
	rec := &record{}
	if err := e.Load(rec); err != nil {
		return nil, err
	}
	bad := func(field, value string) error {
		return &disk.FormatError{Format: "snapshot record", Field: field, Offset: -1, Err: disk.ErrCorrupt, Detail: fmt.Sprintf("%q", value)}
	}
	if rec.Socket != "" && !filepath.IsAbs(rec.Socket) {
		return nil, bad("socket", rec.Socket)
	}
	if d := rec.ServerDir; d != "" && (!filepath.IsAbs(d) || !strings.HasPrefix(filepath.Base(d), tempPrefix)) {
		return nil, bad("server_dir", d)
	}
	for _, d := range rec.Disks {
		if d == nil || !filepath.IsAbs(d.Temp) || !strings.HasPrefix(filepath.Base(d.Temp), tempPrefix) || !strings.HasPrefix(d.TempNode, nodePrefix) {
			return nil, bad("disks", fmt.Sprint(d))
		}
	}
	return rec, nil
}

const (
	tempPrefix = "vmstream-" // of file names
	nodePrefix = "vms"       // of names in QEMU, which may have 31 bytes
)

// tag returns what tells this snapshot's names from others.
func tag(e *snapshot.Entry) string {
	id := e.Record().ID
	return id[max(0, len(id)-8):]
}

// name gives out the names of the i-th disk.
func (d *diskRecord) name(tag string, i int, dir string) {
	id := fmt.Sprintf("%s%s-%d-", nodePrefix, tag, i)
	d.Temp = filepath.Join(dir, fmt.Sprintf("%s%s-%d.qcow2", tempPrefix, tag, i))
	d.TempNode, d.FileNode, d.Job, d.Export = id+"t", id+"f", id+"j", id+"x"
}
