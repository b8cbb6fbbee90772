// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vm"
)

const twoSnapshots = `.encoding = "UTF-8"
snapshot.lastUID = "7"
snapshot.current = "7"
snapshot.numSnapshots = "2"
snapshot0.uid = "1"
snapshot0.filename = "web01-Snapshot1.vmsn"
snapshot0.displayName = "before%2fafter"
snapshot0.description = "line 1|0Aline 2"
snapshot0.type = "1"
snapshot0.createTimeHigh = "303232"
snapshot0.createTimeLow = "-1000000000"
snapshot0.numDisks = "2"
snapshot0.disk0.fileName = "web01.vmdk"
snapshot0.disk0.node = "scsi0:0"
snapshot0.disk1.fileName = "web01_1.vmdk"
snapshot0.disk1.node = "SCSI0:1"
snapshot10.uid = "7"
snapshot10.parent = "1"
snapshot10.displayName = "second"
snapshot10.disk0.fileName = "web01-000001.vmdk"
snapshot10.disk0.node = "scsi0:0"
`

func TestParseSnapshots(t *testing.T) {
	got, err := vm.ParseSnapshots([]byte(twoSnapshots))
	if err != nil {
		t.Fatal(err)
	}
	// 303232 * 2^32 + (2^32 - 1000000000) microseconds
	created := time.UnixMicro(303232*4294967296 + 3294967296).UTC()
	if created.Year() != 2011 {
		t.Fatalf("the test's time is off: %v", created)
	}
	want := &vm.Snapshots{LastUID: 7, CurrentUID: 7, List: []vm.Snapshot{
		{
			UID: 1, DisplayName: "before/after", Description: "line 1\nline 2", Type: "1", File: "web01-Snapshot1.vmsn", Created: created,
			Disks: []vm.SnapshotDisk{{Key: "scsi0:0", File: "web01.vmdk"}, {Key: "scsi0:1", File: "web01_1.vmdk"}},
		},
		{UID: 7, ParentUID: 1, DisplayName: "second", Disks: []vm.SnapshotDisk{{Key: "scsi0:0", File: "web01-000001.vmdk"}}},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func TestParseSnapshotsOdd(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		snapshots  int
		warnings   []string
	}{
		{"empty", "", 0, nil},
		{"none", "snapshot.numSnapshots = \"0\"\n", 0, nil},
		{"absurd number", "snapshot.numSnapshots = \"999999999999\"\nsnapshot0.uid = \"1\"\nsnapshot0.numDisks = \"99999999\"\n", 1, []string{"snapshot.numSnapshots is"}},
		{"absurd index", "snapshot999999999.uid = \"1\"\nsnapshot9999999999.uid = \"2\"\n", 1, nil},
		{"no uid", "snapshot0.displayName = \"x\"\nsnapshot1.uid = \"-4\"\n", 0, []string{"snapshot0 has no uid", "snapshot1 has no uid"}},
		{"one uid for two", "snapshot0.uid = \"1\"\nsnapshot1.uid = \"1\"\n", 2, []string{"uid 1 is given"}},
		{"parent of itself", "snapshot0.uid = \"1\"\nsnapshot0.parent = \"1\"\n", 1, []string{"the parent of snapshot 1"}},
		{"parent and current unknown", "snapshot.current = \"9\"\nsnapshot0.uid = \"1\"\nsnapshot0.parent = \"5\"\n", 1, []string{"the parent of snapshot 1", "the current snapshot, 9"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := vm.ParseSnapshots([]byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			if len(s.List) != tt.snapshots {
				t.Errorf("%d snapshots, want %d", len(s.List), tt.snapshots)
			}
			checkPrefixes(t, s.Warnings, tt.warnings)
		})
	}
	if _, err := vm.ParseSnapshots([]byte("\x00")); !errors.Is(err, disk.ErrUnknown) {
		t.Errorf("a zero byte: %v", err)
	}
}

func TestSnapshotTimes(t *testing.T) {
	for _, tt := range []struct {
		high, low string
		zero      bool
	}{
		{"0", "1", false},
		{"303232", "-1", false},
		{"303232", "4294967295", false},
		{"", "", true},
		{"-1", "0", true},
		{"x", "0", true},
		{"303232", "4294967296", true},
		{"2147483647", "0", true}, // far beyond the year 9999
		{"4294967296", "0", true},
	} {
		s, err := vm.ParseSnapshots(fmt.Appendf(nil, "snapshot0.uid = \"1\"\nsnapshot0.createTimeHigh = \"%s\"\nsnapshot0.createTimeLow = \"%s\"\n", tt.high, tt.low))
		if err != nil {
			t.Fatal(err)
		}
		if s.List[0].Created.IsZero() != tt.zero {
			t.Errorf("%s, %s: %v", tt.high, tt.low, s.List[0].Created)
		}
		if _, err := s.List[0].Created.MarshalJSON(); err != nil {
			t.Errorf("%s, %s: %v", tt.high, tt.low, err)
		}
	}
}
