// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmstream/vmstream/internal/scsilab/fabric"
	"github.com/vmstream/vmstream/scsi"
)

// The tests in this file run in the guest of TestLab, with Linux's own drivers.

// lab returns what a variable of the lab says.
func lab(t *testing.T, name string) string {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		t.Skip("runs in the guest of TestLab")
	}
	return v
}

// labDevice opens a device of the lab.
func labDevice(t *testing.T, name string) *scsi.Device {
	t.Helper()
	d, err := scsi.Open(lab(t, name))
	must(t, err)
	t.Cleanup(func() { must(t, d.Close()) })
	return d
}

// labPairs has a test done by both initiators of a LUN, by the nodes of disks and by the
// generic ones.
func labPairs(t *testing.T, do func(t *testing.T, a, b *scsi.Device)) {
	for _, lun := range []string{"LUN_A", "LUN_B"} {
		for _, kind := range []string{"", "_SG"} {
			t.Run(lun+kind, func(t *testing.T) { do(t, labDevice(t, lun+kind), labDevice(t, lun+"_OTHER"+kind)) })
		}
	}
}

func TestLabReserve(t *testing.T)    { labPairs(t, exerciseReserve) }
func TestLabPersistent(t *testing.T) { labPairs(t, exercisePersistent) }

// TestLabConflict has the kernel fail to read what another initiator has reserved.
func TestLabConflict(t *testing.T) {
	a, b := labDevice(t, "LUN_A"), lab(t, "LUN_A_OTHER")
	must(t, a.Reserve(t.Context()))
	f, err := os.Open(b)
	must(t, err)
	defer f.Close()
	must(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	if _, err := f.ReadAt(make([]byte, 4096), 1<<20); !errors.Is(err, unix.EIO) {
		t.Errorf("reading: %v", err)
	}
	must(t, a.Release(t.Context()))
	if _, err := f.ReadAt(make([]byte, 4096), 1<<20); err != nil {
		t.Errorf("reading after it was released: %v", err)
	}
}

// labWriter writes to a disk past the kernel's memory, in blocks of the LUN.
func labWriter(t *testing.T, node string, size int64) func(blockRange) error {
	t.Helper()
	f, err := os.OpenFile(node, os.O_RDWR|unix.O_SYNC, 0)
	must(t, err)
	t.Cleanup(func() { must(t, f.Close()) })
	return func(r blockRange) error {
		_, err := f.WriteAt(bytes.Repeat([]byte{0x5a}, int(int64(r.blocks)*size)), int64(r.lba)*size)
		return err
	}
}

func TestLabUnmapped(t *testing.T) {
	d := labDevice(t, "LUN_THIN")
	c, err := d.Capacity(t.Context())
	must(t, err)
	exerciseUnmapped(t, d, labWriter(t, lab(t, "LUN_THIN"), c.BlockBytes))
	thin, err := scsi.OpenThin(t.Context(), lab(t, "LUN_THIN"))
	must(t, err)
	if thin.Size() != c.SizeBytes() {
		t.Errorf("size %d, want %d", thin.Size(), c.SizeBytes())
	}
	must(t, thin.Close())
	// Linux's target does not tell what is unmapped, so that all has to be read.
	if _, err := scsi.OpenThin(t.Context(), lab(t, "LUN_A")); !errors.Is(err, scsi.ErrUnsupported) {
		t.Errorf("a LUN that does not tell: %v", err)
	}
}

// TestLabUnmap has what is unmapped read as zeros.
func TestLabUnmap(t *testing.T) {
	for _, lun := range []string{"LUN_A", "LUN_B", "LUN_THIN"} {
		d := labDevice(t, lun)
		c, err := d.Capacity(t.Context())
		must(t, err)
		limits, err := d.Limits(t.Context())
		must(t, err)
		must(t, labWriter(t, lab(t, lun), c.BlockBytes)(blockRange{0, 512}))
		must(t, d.Unmap(t.Context(), 64, 128, limits))
		f, err := os.Open(lab(t, lun))
		must(t, err)
		must(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
		got := make([]byte, 512*c.BlockBytes)
		_, err = f.ReadAt(got, 0)
		must(t, errors.Join(err, f.Close()))
		want := bytes.Repeat([]byte{0x5a}, len(got))
		clear(want[64*c.BlockBytes : 192*c.BlockBytes])
		if !bytes.Equal(got, want) {
			t.Errorf("%s: it reads something else", lun)
		}
	}
}

// TestLabIdentity keeps a LUN's identity when it is presented elsewhere.
func TestLabIdentity(t *testing.T) {
	idA := exerciseIdentity(t, labDevice(t, "LUN_A"), labDevice(t, "LUN_A_OTHER_SG"))
	idB := exerciseIdentity(t, labDevice(t, "LUN_B"), labDevice(t, "LUN_B_OTHER"))
	if idA == idB || !strings.HasPrefix(string(idA), "naa.6001405") {
		t.Fatalf("ids %s and %s", idA, idB)
	}
	table, before := &scsi.Table{}, scan(t)
	table.Learn(before)
	table.Name(before)
	a, err := scsi.Find(lab(t, "LUN_A"), before, table)
	must(t, err)
	if a.ID != idA || a.Paths != 2 || len(a.Names) != 1 || a.Address.String() != lab(t, "LUN_A_HCTL") || a.SizeBytes != 64<<20 || a.Generic != lab(t, "LUN_A_SG") {
		t.Fatalf("LUN_A is %+v", a)
	}
	swap := func() {
		stores := []fabric.Store{fabric.Store(lab(t, "LUN_A_STORE")), fabric.Store(lab(t, "LUN_B_STORE"))}
		for i, s := range stores {
			must(t, fabric.Withdraw(fabric.HostA, i, s))
		}
		for i, s := range stores {
			address, err := fabric.Present(fabric.HostA, 1-i, s)
			must(t, err)
			_, err = fabric.Wait(address, "block/sd*")
			must(t, err)
		}
	}
	swap()
	after := scan(t)
	moved, err := scsi.Find(a.Address.String(), after, table)
	must(t, err)
	if moved.ID != idB {
		t.Errorf("at the address of LUN_A is %s now", moved.ID)
	}
	same, err := scsi.Find(a.Names[0].String(), after, table)
	must(t, err)
	if same.ID != idA || same.SizeBytes != a.SizeBytes {
		t.Errorf("%v is %+v now", a.Names[0], same)
	}
	table.Name(after)
	if len(same.Names) != 1 || same.Names[0] != a.Names[0] {
		t.Errorf("its names are %v", same.Names)
	}
	if n := table.Learn(after); n != 0 {
		t.Errorf("%d LUNs are taken for new ones", n)
	}
}

func scan(t *testing.T) []scsi.LUN {
	t.Helper()
	luns, err := scsi.Sysfs{}.LUNs()
	must(t, err)
	return luns
}

// TestLabPlace finds the LUN under a partition.
func TestLabPlace(t *testing.T) {
	node := lab(t, "LUN_THIN")
	p, err := scsi.Sysfs{}.Place(node)
	must(t, err)
	if p.LUN.Node != node || p.OffsetBytes != 0 || p.SizeBytes != 64<<20 || !p.LUN.Thin {
		t.Errorf("%+v", p)
	}
	for _, other := range []string{"/dev/ram0", "/dev/ttyS0", "/dev/null"} {
		if p, err := (scsi.Sysfs{}).Place(other); err == nil {
			t.Errorf("%s: %+v", other, p)
		}
	}
	if d, err := scsi.Open("/dev/null"); !errors.Is(err, scsi.ErrNoDevice) {
		t.Errorf("opened %v: %v", d, err)
	}
}

// TestLabRescan has host adapters look for LUNs.
func TestLabRescan(t *testing.T) {
	lab(t, "LUN_A")
	hosts, err := scsi.Sysfs{}.Hosts()
	must(t, err)
	if len(hosts) < 3 {
		t.Errorf("hosts %v", hosts)
	}
	for _, h := range hosts {
		must(t, scsi.Sysfs{}.Rescan(h))
	}
}
