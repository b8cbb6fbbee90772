// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vm"
	"github.com/vmstream/vmstream/vm/snapshot"
	"github.com/vmstream/vmstream/vmdk"
)

// rollingVM is a machine with one disk whose backups roll, and what has been
// backed up of it.
type rollingVM struct {
	t    *testing.T
	rng  *rand.Rand
	esx2 bool
	dir  string
	vmx  string
	j    *snapshot.Journal

	model   []byte   // of the disk now
	streams [][]byte // the last chain of good backups
	last    *stream.Index
	points  [][]byte // what each is to restore
	logs    int      // redo logs that there are to be
}

const rollingSectors = 5000

func newRollingVM(t *testing.T, esx2 bool, seed uint64) *rollingVM {
	v := &rollingVM{t: t, rng: rand.New(rand.NewPCG(seed, 3)), esx2: esx2, dir: t.TempDir(), model: make([]byte, rollingSectors*disk.SectorSize)}
	for i := 0; i < len(v.model)/2; i++ {
		v.model[i] = byte(v.rng.Uint32())
	}
	text := "displayName = \"v\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"v.vmdk\"\n"
	v.vmx = filepath.Join(v.dir, "v.vmx")
	if esx2 {
		text += "scsi0.present = \"TRUE\"\nscsi0.virtualDev = \"vmxlsilogic\"\n"
		v.must(os.WriteFile(filepath.Join(v.dir, "v.vmdk"), v.model, 0o600))
	} else {
		w, err := vmdk.Create(vmdk.CreateSpec{Format: vmdk.FormatVMFS, Dir: v.dir, Name: "v.vmdk", SizeBytes: int64(len(v.model)), CID: 0x1000})
		v.must(err)
		_, err = w.WriteAt(v.model, 0)
		v.must(err)
		v.must(w.Close())
	}
	v.must(os.WriteFile(v.vmx, []byte(text), 0o600))
	var err error
	v.j, err = snapshot.OpenJournal(filepath.Join(t.TempDir(), "state"))
	v.must(err)
	return v
}

func (v *rollingVM) must(err error) {
	v.t.Helper()
	if err != nil {
		v.t.Fatal(err)
	}
}

var rollingCID = regexp.MustCompile(`(?m)^CID=[0-9a-f]{8}`)

// write plays the guest.
func (v *rollingVM) write() {
	v.t.Helper()
	m, err := vm.Load(v.vmx, vm.LoadOptions{})
	v.must(err)
	path := m.Disks[0].TopPath
	if !v.esx2 {
		text, err := os.ReadFile(path)
		v.must(err)
		text = rollingCID.ReplaceAll(text, fmt.Appendf(nil, "CID=%08x", v.rng.Uint32()>>1|1))
		v.must(os.WriteFile(path, text, 0o600))
		kind := "-flat.vmdk"
		if bytes.Contains(text, []byte("-delta.vmdk")) {
			kind = "-delta.vmdk"
		}
		path = strings.TrimSuffix(path, ".vmdk") + kind
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	v.must(err)
	defer f.Close()
	st, err := f.Stat()
	v.must(err)
	var w io.WriterAt = f
	if v.logs > 0 || strings.HasSuffix(path, ".REDO") || strings.HasSuffix(path, "-delta.vmdk") {
		u, err := vmdk.OpenUpdate(v.t.Context(), f, vmdk.UpdateSpec{Name: path, FileBytes: st.Size(), Fill: bytes.NewReader(v.model)})
		v.must(err)
		defer func() { v.must(u.Close()) }()
		w = u
	}
	for range 1 + v.rng.IntN(6) {
		at, n := v.rng.IntN(rollingSectors-64), 1+v.rng.IntN(64)
		b := bytes.Repeat([]byte{byte(v.rng.IntN(4)) * byte(v.rng.Uint32())}, n*disk.SectorSize) // often zeros
		_, err = w.WriteAt(b, int64(at)*disk.SectorSize)
		v.must(err)
		copy(v.model[at*disk.SectorSize:], b)
	}
}

// backup makes one, as an increment if it can be one. broken has its output
// fail; stuck has the machine running when the log is to be merged.
func (v *rollingVM) backup(id string, full, broken, stuck bool) {
	v.t.Helper()
	o := streamOptions("none")
	o.ID = id
	if !full && v.last != nil {
		o.Parent = v.last.Opening
	}
	point := bytes.Clone(v.model)
	src, err := OpenSource(v.t.Context(), v.vmx, SourceOptions{
		Warn:     func(s string) { v.t.Errorf("warning: %s", s) },
		Snapshot: SnapshotOptions{Provider: snapshot.Redo{Rolling: true}, Journal: v.j, BackupID: id},
	})
	v.must(err)
	v.write() // while it is read
	if o.Parent != nil {
		v.must(src.Since(v.last, SinceOptions{}))
	}
	var out bytes.Buffer
	var w io.Writer = &out
	if broken {
		w = &failingWriter{left: 3000}
	}
	res, err := Backup(v.t.Context(), w, src, o)
	if (err != nil) != broken {
		v.t.Fatalf("backup %s: %v", id, err)
	}
	lock := v.vmx + ".lck"
	if stuck {
		v.must(os.WriteFile(lock, nil, 0o600))
	}
	err = src.Release(context.Background(), !broken)
	if (err != nil) != stuck {
		v.t.Fatalf("release %s: %v", id, err)
	}
	if stuck {
		v.must(os.Remove(lock))
		l, err := v.j.List()
		v.must(err)
		v.must(snapshot.Reap(v.t.Context(), v.j, l[0].ID, []snapshot.Provider{snapshot.Redo{}}, snapshot.Voice{}))
	}
	if broken {
		return
	}
	v.logs = 1
	if o.Parent == nil {
		v.streams, v.points = nil, nil
	}
	v.last, v.streams, v.points = res.Index, append(v.streams, out.Bytes()), append(v.points, point)
}

// check compares the disk with the model, and every point of the chain of
// backups with what it is to be.
func (v *rollingVM) check(what string) {
	v.t.Helper()
	l, err := v.j.List()
	if err != nil || len(l) != 0 {
		v.t.Fatalf("%s: the journal has %+v, %v", what, l, err)
	}
	src, err := OpenSource(v.t.Context(), v.vmx, SourceOptions{})
	v.must(err)
	defer src.Close()
	if n := len(src.Snapshot.Disks[0].Info.Links) - 1; n != v.logs {
		v.t.Fatalf("%s: %d redo logs, expected %d", what, n, v.logs)
	}
	got := make([]byte, len(v.model))
	v.must(disk.ReadFull(src.Disks[0].Image, got, 0))
	if !bytes.Equal(got, v.model) {
		v.t.Fatalf("%s: the disk is not what the guest has written", what)
	}
	for i := range v.points {
		var ins []io.Reader
		for _, s := range v.streams[:i+1] {
			ins = append(ins, bytes.NewReader(s))
		}
		var out bytes.Buffer
		if _, err := RestoreChain(v.t.Context(), ins, RestoreOptions{To: "-", Stdout: &out}); err != nil {
			v.t.Fatalf("%s: restore of point %d: %v", what, i, err)
		}
		if !bytes.Equal(out.Bytes(), v.points[i]) {
			v.t.Fatalf("%s: point %d restores something else", what, i)
		}
	}
}

// TestRolling goes through rounds of the scheme with writes between and during
// backups, some of which fail, in both ways of naming.
func TestRolling(t *testing.T) {
	testenv.Long(t)
	for _, esx2 := range []bool{true, false} {
		t.Run(map[bool]string{true: "ESX 2", false: "ESX 3"}[esx2], func(t *testing.T) {
			for seed := range uint64(2) {
				v := newRollingVM(t, esx2, seed)
				for round := range 8 {
					id := fmt.Sprintf("b%d", round)
					broken := v.rng.IntN(4) == 0
					if v.rng.IntN(4) > 0 {
						v.write()
					}
					v.backup(id, round == 5, broken, !broken && v.last != nil && v.rng.IntN(4) == 0)
					v.check(fmt.Sprintf("seed %d, backup %s, broken %v", seed, id, broken))
				}
			}
		})
	}
}

// TestRollingParent has an index of a backup that did not count: no chain has
// that state any more.
func TestRollingParent(t *testing.T) {
	for _, esx2 := range []bool{true, false} {
		v := newRollingVM(t, esx2, 9)
		v.backup("full", true, false, false)
		v.write()
		src, err := OpenSource(t.Context(), v.vmx, SourceOptions{Snapshot: SnapshotOptions{Provider: snapshot.Redo{Rolling: true}, Journal: v.j}})
		v.must(err)
		v.must(src.Since(v.last, SinceOptions{}))
		o := streamOptions("none")
		o.Parent = v.last.Opening
		lost, err := Backup(t.Context(), io.Discard, src, o)
		v.must(err)
		v.write()
		v.must(src.Release(t.Context(), false)) // its caller has never heard that it was good
		v.check("after one that was lost")
		src, err = OpenSource(t.Context(), v.vmx, SourceOptions{Snapshot: SnapshotOptions{Provider: snapshot.Redo{Rolling: true}, Journal: v.j}})
		v.must(err)
		if err := src.Since(lost.Index, SinceOptions{}); !errors.Is(err, disk.ErrMismatch) {
			t.Errorf("an increment on a backup that did not count: %v", err)
		}
		v.must(src.Close())
		v.backup("inc", false, false, false)
		v.check("the one that counts")
	}
}

// failingWriter takes a number of bytes.
type failingWriter struct{ left int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, errors.New("no room")
	}
	return len(p), nil
}
