// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/scsilab"
	"github.com/vmstream/vmstream/scsi"
)

// TestSCSILab has the tests below that begin with TestGuest run in a guest with LUNs.
func TestSCSILab(t *testing.T) {
	scsilab.RunLUNTests(t, "internal/command", "^TestGuest", scsilab.Options{MemoryMiB: 1536})
}

// guest returns what a variable of the lab says.
func guest(t *testing.T, name string) string {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		t.Skip("runs in the guest of TestSCSILab")
	}
	return v
}

// vmstream runs a command line that is to end with a code, and returns its stdout and
// stderr.
func vmstream(t *testing.T, code int, in []byte, args ...string) (stdout []byte, stderr string) {
	t.Helper()
	var out, msg bytes.Buffer
	got := Run(context.Background(), args, Streams{In: bytes.NewReader(in), Out: &out, Err: &msg})
	if got != code {
		t.Fatalf("vmstream %q ends with %d, want %d\n%s", args, got, code, &msg)
	}
	return out.Bytes(), msg.String()
}

// scanned returns what scsi scan tells of a node.
func scanned(t *testing.T, node string, args ...string) scsiScanned {
	t.Helper()
	out, _ := vmstream(t, cli.ExitDone, nil, append([]string{"--json", "scsi", "scan"}, args...)...)
	for line := range bytes.Lines(out) {
		var l scsiScanned
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatal(err)
		}
		if l.Node == node {
			return l
		}
	}
	t.Fatalf("%s is not there:\n%s", node, out)
	return scsiScanned{}
}

// scsiScanned are fields of scsi scan.
type scsiScanned struct {
	Address, Node, Generic, ID, State, Driver string
	Paths                                     int
	Names                                     []string
	SizeBytes                                 int64 `json:"size_bytes"`
	Reservation                               *struct {
		Conflict, Persistent bool
		Key, Type            string
		Registrants          []struct {
			Key    string
			Holder bool
		}
	}
}

func TestGuestScan(t *testing.T) {
	node := guest(t, "LUN_A")
	l := scanned(t, node)
	if l.Address != guest(t, "LUN_A_HCTL") || l.Generic != guest(t, "LUN_A_SG") || l.Paths != 2 || !strings.HasPrefix(l.ID, "naa.6001405") || l.SizeBytes != 64<<20 ||
		l.State != "running" || l.Driver != "tcm_loopback" || l.Reservation == nil || l.Reservation.Conflict {
		t.Errorf("LUN_A is %+v", l)
	}
	table := filepath.Join(t.TempDir(), "vmhba")
	vmstream(t, cli.ExitUsage, nil, "scsi", "scan", "--learn")
	vmstream(t, cli.ExitSource, nil, "scsi", "scan", "--vmhba-table", table)
	l = scanned(t, node, "--rescan", "--vmhba-table", table, "--learn")
	if len(l.Names) != 1 {
		t.Fatalf("names %q", l.Names)
	}
	out, _ := vmstream(t, cli.ExitDone, nil, "scsi", "info", "--vmhba-table", table, l.Names[0])
	for _, want := range []string{l.ID, l.Names[0], "64.0 MiB, blocks of 512 bytes", "reserved", "thin; which blocks hold nothing is not told"} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("info does not tell %q:\n%s", want, out)
		}
	}
	out, _ = vmstream(t, cli.ExitDone, nil, "scsi", "info", guest(t, "LUN_THIN"))
	if !bytes.Contains(out, []byte("thin; blocks that hold nothing are not read")) {
		t.Errorf("LUN_THIN:\n%s", out)
	}
	vmstream(t, cli.ExitSource, nil, "scsi", "info", "vmhba99:0:0")
	vmstream(t, cli.ExitSource, nil, "scsi", "scan", "--rescan", "host99")
}

func TestGuestReserve(t *testing.T) {
	a, b := guest(t, "LUN_A"), guest(t, "LUN_A_OTHER")
	vmstream(t, cli.ExitDone, nil, "scsi", "reserve", a)
	if l := scanned(t, b); l.Reservation == nil || !l.Reservation.Conflict {
		t.Errorf("the other host sees %+v", l.Reservation)
	}
	_, msg := vmstream(t, cli.ExitSource, nil, "scsi", "reserve", b)
	if !strings.Contains(msg, "reservation conflict: reserved by another host") {
		t.Errorf("said %q", msg)
	}
	_, msg = vmstream(t, cli.ExitSource, nil, "scsi", "release", b)
	if !strings.Contains(msg, "not this host's to release") {
		t.Errorf("said %q", msg)
	}
	out, _ := vmstream(t, cli.ExitDone, nil, "scsi", "info", b)
	if !bytes.Contains(out, []byte("by another host")) {
		t.Errorf("info:\n%s", out)
	}
	_, msg = vmstream(t, cli.ExitSource, nil, "disk", "convert", b, filepath.Join(t.TempDir(), "x.raw"))
	if !strings.Contains(msg, "vmstream scsi info "+b) {
		t.Errorf("read while another host has it: %q", msg)
	}
	id := scanned(t, a).ID
	_, msg = vmstream(t, cli.ExitUsage, nil, "scsi", "reset", b)
	if !strings.Contains(msg, "reserved: by another host") || !strings.Contains(msg, "--confirm "+id) {
		t.Errorf("said %q", msg)
	}
	vmstream(t, cli.ExitUsage, nil, "scsi", "reset", "--confirm", "naa.5000000000000001", b)
	vmstream(t, cli.ExitDone, nil, "scsi", "reset", "--confirm", id, b)
	vmstream(t, cli.ExitDone, nil, "scsi", "reserve", b)
	vmstream(t, cli.ExitDone, nil, "scsi", "release", b)
	vmstream(t, cli.ExitDone, nil, "scsi", "reserve", a)
	vmstream(t, cli.ExitDone, nil, "scsi", "release", a)
}

func TestGuestPersistent(t *testing.T) {
	a, b := guest(t, "LUN_B"), guest(t, "LUN_B_OTHER")
	vmstream(t, cli.ExitUsage, nil, "scsi", "reserve", "--persistent", a)
	vmstream(t, cli.ExitUsage, nil, "scsi", "reserve", "--persistent", "--key", "1", "--type", "x", a)
	vmstream(t, cli.ExitDone, nil, "scsi", "reserve", "--persistent", "--key", "0xab", a)
	r := scanned(t, b).Reservation
	if r == nil || !r.Persistent || r.Key != "0xab" || r.Type != "write-exclusive" || len(r.Registrants) != 1 || !r.Registrants[0].Holder {
		t.Errorf("the other host sees %+v", r)
	}
	vmstream(t, cli.ExitSource, nil, "scsi", "reserve", "--persistent", "--key", "cd", b)
	if r := scanned(t, a).Reservation; len(r.Registrants) != 1 {
		t.Errorf("who could not reserve it stays registered: %+v", r)
	}
	vmstream(t, cli.ExitSource, nil, "scsi", "release", "--persistent", "--key", "cd", b)
	vmstream(t, cli.ExitDone, nil, "scsi", "release", "--persistent", "--key", "ab", a)
	if r := scanned(t, b).Reservation; r.Persistent || len(r.Registrants) != 0 {
		t.Errorf("after it was released: %+v", r)
	}
}

// adapterName returns the name that ESX would have for an address.
func adapterName(t *testing.T, address string) string {
	t.Helper()
	a, err := scsi.ParseAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	return scsi.Name{Adapter: a.Host, Channel: a.Channel, Target: a.Target, LUN: a.LUN}.String()
}

func TestGuestVmkfstoolsLock(t *testing.T) {
	a, b := adapterName(t, guest(t, "LUN_A_HCTL")), adapterName(t, guest(t, "LUN_A_OTHER_HCTL"))
	vmstream(t, cli.ExitDone, nil, "vmkfstools", "-L", "reserve", a)
	vmstream(t, cli.ExitSource, nil, "vmkfstools", "--lock", "reserve", b+":0")
	vmstream(t, cli.ExitUsage, nil, "vmkfstools", "-L", "lunreset", b)
	vmstream(t, cli.ExitDone, nil, "vmkfstools", "-L", "reset", "--force", "/vmfs/"+b)
	vmstream(t, cli.ExitDone, nil, "vmkfstools", "-L", "reserve", "/vmfs/devices/disks/"+b)
	vmstream(t, cli.ExitDone, nil, "vmkfstools", "-L", "release", b)
	vmstream(t, cli.ExitUsage, nil, "vmkfstools", "-L", "break", b)
	adapter, _, _ := strings.Cut(a, ":")
	out, _ := vmstream(t, cli.ExitDone, nil, "vmkfstools", "-s", adapter)
	if !bytes.Contains(out, []byte(guest(t, "LUN_A"))) || bytes.Contains(out, []byte(guest(t, "LUN_A_OTHER"))) {
		t.Errorf("-s lists\n%s", out)
	}
	vmstream(t, cli.ExitVMkernel, nil, "vmkfstools", "-w", "swap")
}

// newImage makes a volume in an image.
func newImage(t *testing.T) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "volume.img")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 300<<20)); err != nil {
		t.Fatal(err)
	}
	vmstream(t, cli.ExitDone, nil, "vmfs", "mkfs", "--label", "ds", image)
	return image
}

// readLUN reads a LUN, and not what the kernel has kept of it.
func readLUN(t *testing.T, node string) []byte {
	t.Helper()
	f, err := os.Open(node)
	if err == nil {
		err = errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(node)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestGuestNames reads a LUN by all of its names, and looks for volumes there.
func TestGuestNames(t *testing.T) {
	a := scanned(t, guest(t, "LUN_A"))
	content := bytes.Repeat([]byte("by any name "), 64<<20/12+1)[:64<<20]
	if err := os.WriteFile(a.Node, content, 0); err != nil {
		t.Fatal(err)
	}
	readLUN(t, a.Node)
	esx := adapterName(t, a.Address)
	raw := filepath.Join(t.TempDir(), "x.raw")
	for _, name := range []string{a.Node, a.ID, a.Address, esx, "/vmfs/" + esx + ":0"} {
		vmstream(t, cli.ExitDone, nil, "disk", "convert", "--force", "--format", "raw", name, raw)
		if got, err := os.ReadFile(raw); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes, which differ: %v", name, len(got), err)
		}
		if _, msg := vmstream(t, cli.ExitSource, nil, "vmfs", "info", name); !strings.Contains(msg, a.Node) {
			t.Errorf("%s: said %q", name, msg)
		}
	}
	for _, name := range []string{esx + ":3", esx + ":3:web01/web01.vmx", "naa.60014050000000000000000000000001", "vmfs:" + esx + ":3!/web01/web01.vmx"} {
		if _, msg := vmstream(t, cli.ExitSource, nil, "backup", name); !strings.Contains(msg, "no such device") {
			t.Errorf("%s: said %q", name, msg)
		}
	}
}

// TestGuestMapRaw maps a LUN for a VM, backs that up, and restores it to another LUN with
// a mapping, and to files.
func TestGuestMapRaw(t *testing.T) {
	a := scanned(t, guest(t, "LUN_A"))
	content := bytes.Repeat([]byte("content of the LUN, "), 64<<20/20+1)[:64<<20]
	clear(content[8<<20 : 40<<20])
	if err := os.WriteFile(a.Node, content, 0); err != nil {
		t.Fatal(err)
	}
	readLUN(t, a.Node)
	image := newImage(t)
	volume := "vmfs:" + image + "!/"
	dir := t.TempDir()
	vmx := filepath.Join(dir, "web01.vmx")
	text := "displayName = \"web01\"\nscsi0.present = \"TRUE\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"data.vmdk\"\n"
	if err := os.WriteFile(vmx, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	vmstream(t, cli.ExitDone, nil, "vmfs", "cp", vmx, volume)
	vmstream(t, cli.ExitDone, nil, "disk", "map-raw", "--physical", a.ID, volume+"data.vmdk")
	vmstream(t, cli.ExitFailed, nil, "disk", "map-raw", a.ID, volume+"data.vmdk")
	vmstream(t, cli.ExitUsage, nil, "disk", "map-raw", a.ID, filepath.Join(dir, "data.vmdk"))
	vmstream(t, cli.ExitDone, nil, "vmkfstools", "-r", adapterName(t, a.Address), volume+"esx2.dsk")
	vmstream(t, cli.ExitDone, nil, "vmkfstools", "--createrdm", a.Node, volume+"virtual.vmdk")
	out, _ := vmstream(t, cli.ExitDone, nil, "vmfs", "ls", "-l", "-M", "vmfs:"+image)
	for _, want := range []string{"data-rdmp.vmdk", "virtual-rdm.vmdk", "esx2.dsk", "LIO-ORG"} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("%s is not listed:\n%s", want, out)
		}
	}
	for name, code := range map[string]int{"data.vmdk": cli.ExitWarnings, "virtual.vmdk": cli.ExitDone, "esx2.dsk": cli.ExitDone} {
		raw := filepath.Join(dir, name+".raw")
		vmstream(t, code, nil, "disk", "convert", "--format", "raw", volume+name, raw)
		if got, err := os.ReadFile(raw); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes, which differ: %v", name, len(got), err)
		}
		if err := os.Remove(raw); err != nil {
			t.Fatal(err)
		}
	}
	stream, msg := vmstream(t, cli.ExitWarnings, nil, "backup", volume+"web01.vmx")
	if !strings.Contains(msg, "raw device mapping in physical mode") {
		t.Errorf("said %q", msg)
	}
	mapAgain(t, stream, content)
	restored := filepath.Join(dir, "files")
	_, msg = vmstream(t, cli.ExitWarnings, stream, "restore", "-C", restored, "--format", "raw")
	if !strings.Contains(msg, "was a raw device mapping (physical) of the LUN LIO-ORG") {
		t.Errorf("said %q", msg)
	}
	found, err := filepath.Glob(filepath.Join(restored, "web01", "data*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("restored %q, %v", found, err)
	}
	if got, err := os.ReadFile(found[0]); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%s differs: %v", found[0], err)
	}
}

// mapAgain restores a VM with its disk on another LUN.
func mapAgain(t *testing.T, stream, content []byte) {
	t.Helper()
	b := scanned(t, guest(t, "LUN_B"))
	image := newImage(t)
	vmstream(t, cli.ExitUsage, stream, "restore", "-C", t.TempDir(), "--map-raw", "scsi0:0="+b.ID)
	vmstream(t, cli.ExitFailed, stream, "restore", "-C", "vmfs:"+image+"!/", "--map-raw", "scsi0:7="+b.ID)
	vmstream(t, cli.ExitDone, stream, "restore", "-C", "vmfs:"+image+"!/", "--map-raw", "scsi0:0="+b.ID)
	if !bytes.Equal(readLUN(t, b.Node), content) {
		t.Error("the LUN has something else")
	}
	out, _ := vmstream(t, cli.ExitDone, nil, "disk", "info", "vmfs:"+image+"!/web01/data.vmdk")
	if !bytes.Contains(out, []byte("vmfsPassthroughRawDeviceMap")) {
		t.Errorf("it is\n%s", out)
	}
	vmstream(t, cli.ExitDone, nil, "vmfs", "check", image)
	vmstream(t, cli.ExitWarnings, nil, "backup", "--to", "file://"+filepath.Join(t.TempDir(), "again.tar"), "vmfs:"+image+"!/web01/web01.vmx")
}
