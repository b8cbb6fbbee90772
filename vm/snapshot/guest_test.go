// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vm"
	"github.com/vmstream/vmstream/vmdk"
)

const guestSectors = 3000

// guest is a machine with two disks in a directory, and what these ought to
// hold. It plays what a guest does while it runs.
type guest struct {
	t     testing.TB
	esx2  bool
	vmx   string
	model [2][]byte
	rng   *rand.Rand
}

func eachNaming(t *testing.T, test func(t *testing.T, esx2 bool)) {
	for _, esx2 := range []bool{true, false} {
		t.Run(map[bool]string{true: "ESX 2", false: "ESX 3"}[esx2], func(t *testing.T) { test(t, esx2) })
	}
}

func diskName(i int) string { return fmt.Sprintf("disk%d.vmdk", i) }

func newGuest(t testing.TB, esx2 bool) *guest {
	t.Helper()
	g := &guest{t: t, esx2: esx2, rng: rand.New(rand.NewPCG(1, 2))}
	dir := t.TempDir()
	text := "displayName = \"g\"\nscsi0.present = \"TRUE\"\n"
	for i := range g.model {
		g.model[i] = make([]byte, guestSectors*disk.SectorSize)
		for j := range g.model[i] {
			g.model[i][j] = byte(g.rng.Uint32())
		}
		key := "fileName"
		if esx2 {
			key = "name"
			g.must(os.WriteFile(filepath.Join(dir, diskName(i)), g.model[i], 0o600))
		} else {
			w, err := vmdk.Create(vmdk.CreateSpec{Format: vmdk.FormatVMFS, Dir: dir, Name: diskName(i), SizeBytes: int64(len(g.model[i])), CID: 0x1000 + uint32(i)})
			g.must(err)
			_, err = w.WriteAt(g.model[i], 0)
			g.must(err)
			g.must(w.Close())
		}
		text += fmt.Sprintf("scsi0:%d.present = \"TRUE\"\nscsi0:%[1]d.%s = \"%s\"\n", i, key, diskName(i))
	}
	if esx2 {
		text += "scsi0.virtualDev = \"vmxbuslogic\"\n"
	}
	g.vmx = filepath.Join(dir, map[bool]string{true: "g.cfg", false: "g.vmx"}[esx2])
	g.must(os.WriteFile(g.vmx, []byte(text), 0o600))
	return g
}

func (g *guest) must(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

func (g *guest) load() *vm.VM {
	g.t.Helper()
	m, err := vm.Load(g.vmx, vm.LoadOptions{})
	g.must(err)
	return m
}

func (g *guest) request() *Request {
	return &Request{BackupID: "b", Path: g.vmx, VM: g.load(), Warn: func(s string) { g.t.Errorf("warning: %s", s) }}
}

var cidLine = regexp.MustCompile(`(?m)^CID=[0-9a-f]{8}`)

// write writes some sectors to the top of both disks, as a guest does.
func (g *guest) write() {
	g.t.Helper()
	m := g.load()
	for i := range m.Disks {
		d := &m.Disks[i]
		extent := d.TopPath
		if !g.esx2 {
			text, err := os.ReadFile(d.TopPath)
			g.must(err)
			text = cidLine.ReplaceAll(text, fmt.Appendf(nil, "CID=%08x", g.rng.Uint32()>>1|1))
			g.must(os.WriteFile(d.TopPath, text, 0o600))
			kind := "-flat.vmdk"
			if bytes.Contains(text, []byte("-delta.vmdk")) {
				kind = "-delta.vmdk"
			}
			extent = strings.TrimSuffix(d.TopPath, ".vmdk") + kind
		}
		for range 5 {
			at := g.rng.IntN(guestSectors - 20)
			b := bytes.Repeat([]byte{byte(g.rng.Uint32())}, (1+g.rng.IntN(20))*disk.SectorSize)
			copy(g.model[i][at*disk.SectorSize:], b)
			g.writeExtent(extent, b, int64(at)*disk.SectorSize)
		}
	}
}

func (g *guest) writeExtent(path string, b []byte, off int64) {
	g.t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	g.must(err)
	defer f.Close()
	st, err := f.Stat()
	g.must(err)
	if st.Size() == guestSectors*disk.SectorSize {
		_, err = f.WriteAt(b, off)
		g.must(err)
		return
	}
	// A sector is a grain: nothing is filled up, but zeros are told from holes.
	u, err := vmdk.OpenUpdate(context.Background(), f, vmdk.UpdateSpec{Name: path, FileBytes: st.Size(), Fill: bytes.NewReader(make([]byte, guestSectors*disk.SectorSize))})
	g.must(err)
	_, err = u.WriteAt(b, off)
	g.must(err)
	g.must(u.Close())
}

// check compares the disks with the model and the number of redo logs.
func (g *guest) check(what string, levels int) {
	g.t.Helper()
	s, err := Take(context.Background(), None{}, nil, g.request())
	g.must(err)
	defer s.Release(context.Background(), false)
	for i := range s.Disks {
		g.same(what, &s.Disks[i], g.model[i])
		if n := len(s.Disks[i].Info.Links) - 1; n != levels {
			g.t.Fatalf("%s: disk %d has %d redo logs, expected %d", what, i, n, levels)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(g.vmx))
	g.must(err)
	for _, e := range entries {
		if strings.Contains(e.Name(), "vmstream") {
			g.t.Fatalf("%s: %s is left", what, e.Name())
		}
	}
}

func (g *guest) same(what string, d *Disk, want []byte) {
	g.t.Helper()
	got := make([]byte, d.Image.Size())
	g.must(disk.ReadFull(d.Image, got, 0))
	if !bytes.Equal(got, want) {
		i := 0
		for got[i] == want[i] {
			i++
		}
		g.t.Fatalf("%s: disk %s differs at sector %d", what, d.Key, i/disk.SectorSize)
	}
}

func (g *guest) snapshotModel() [2][]byte {
	return [2][]byte{bytes.Clone(g.model[0]), bytes.Clone(g.model[1])}
}

// lock makes the machine look as if it were running.
func (g *guest) lock() {
	g.must(os.WriteFile(g.vmx+".lck", []byte("x"), 0o600))
}

func (g *guest) unlock() { g.must(os.Remove(g.vmx + ".lck")) }

func wantEntries(t testing.TB, j *Journal, n int) []Listed {
	t.Helper()
	l, err := j.List()
	if err != nil || len(l) != n {
		t.Fatalf("the journal has %+v (%v), expected %d entries", l, err, n)
	}
	return l
}
