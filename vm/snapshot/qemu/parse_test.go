// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"encoding/json"
	"errors"
	"iter"
	"slices"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vm/snapshot"
)

func TestBitmapNames(t *testing.T) {
	var d diskRecord
	d.nameBitmap(ourBitmaps([]dirtyInfo{
		{Name: "vmstream-1000000-c", Recording: true},
		{Name: "libvirt-1", Recording: true},
		{Name: "vmstream-000009-a-b", Recording: true, Inconsistent: true},
		{Name: "vmstream-x-c"},
		{Name: "vmstream-1-c"},
		{Name: "vmstream-000010-b:1"},
		{Name: "vmstream-000011-"},
		{Name: "vmstream--1-a"},
	}), "new")
	if d.Bitmap != "vmstream-1000001-new" || !slices.Equal(d.Was, []string{"vmstream-1000000-c"}) {
		t.Errorf("%+v", d)
	}
	d = diskRecord{}
	if d.nameBitmap(nil, "first"); d.Bitmap != "vmstream-000001-first" || d.Was != nil {
		t.Errorf("%+v", d)
	}
}

func runs(kinds string) iter.Seq2[disk.Run, error] {
	return disk.Merge(func(yield func(disk.Run, error) bool) {
		for i, c := range kinds {
			r := disk.Run{Offset: int64(i), Length: 1, Kind: disk.Parent}
			if c == 'd' {
				r.Kind = disk.Data
			}
			if c == '!' {
				yield(disk.Run{}, disk.ErrCorrupt)
				return
			}
			if !yield(r, nil) {
				return
			}
		}
	})
}

func TestUnion(t *testing.T) {
	for _, tt := range []struct {
		a, b, want string
		err        error
	}{
		{"", "", "", nil},
		{"dd--", "-d-d", "dd-d", nil},
		{"----", "dddd", "dddd", nil},
		{"d-d-d-", "------", "d-d-d-", nil},
		{"ddd", "dd", "", disk.ErrMismatch},
		{"dd!", "ddd", "", disk.ErrCorrupt},
		{"ddd", "d!", "", disk.ErrCorrupt},
	} {
		got := ""
		var err error
		for r, e := range union(runs(tt.a), runs(tt.b)) {
			err = e
			for range r.Length {
				got += map[disk.Kind]string{disk.Data: "d", disk.Parent: "-"}[r.Kind]
			}
		}
		if !errors.Is(err, tt.err) || err == nil && got != tt.want {
			t.Errorf("%q and %q: %q, %v", tt.a, tt.b, got, err)
		}
	}
}

// TestHostileRecord is about journals: files are removed on their word.
func TestHostileRecord(t *testing.T) {
	j, err := snapshot.OpenJournal(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		`{"socket": "relative"}`, `{"server_dir": "/etc"}`, `{"disks": [null]}`, `{"disks": [{"temp": "/etc/passwd", "temp_node": "vms1"}]}`,
		`{"disks": [{"temp": "vmstream-x", "temp_node": "vms1"}]}`, `{"disks": [{"temp": "/vmstream-x", "temp_node": "base"}]}`, `{"disks": 7}`,
	} {
		e, err := j.Begin(snapshot.Record{Provider: ProviderName})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Save(phaseTaken, json.RawMessage(text)); err != nil {
			t.Fatal(err)
		}
		if rec, err := load(e); !errors.Is(err, disk.ErrCorrupt) {
			t.Errorf("%s: %+v, %v", text, rec, err)
		}
		_ = e.End()
	}
}

// FuzzQueryBlock reads what QEMU says of its devices.
func FuzzQueryBlock(f *testing.F) {
	f.Add([]byte(`[{"device": "", "qdev": "/machine/peripheral/vd0/virtio-backend", "removable": false, "inserted": {"file": "/a.qcow2", "node-name": "base", "drv": "qcow2",
		"image": {"filename": "/a.qcow2", "virtual-size": 512, "format-specific": {"type": "qcow2", "data": {"compat": "1.1"}}, "backing-image": {"filename": "json:{}"}},
		"dirty-bitmaps": [{"name": "vmstream-000001-b1", "recording": true, "busy": false, "inconsistent": false}]}}, {"qdev": "cd0", "removable": true}]`))
	f.Add([]byte(`[{"qdev": "/machine/unattached/device[23]", "inserted": {"image": {"format-specific": {"data": {"extents": [{"filename": "x"}], "compat": 1}}}}}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var list []blockInfo
		if json.Unmarshal(b, &list) != nil {
			return
		}
		for i := range list {
			if list[i].isDisk() {
				d := list[i].disk()
				_ = d.check()
				d.rename(list[i].Inserted.Image, &snapshot.Request{Path: "/nowhere"})
				_, _ = d.since("b1")
				_, _ = d.scratchDir(Options{})
			}
		}
	})
}
