// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/vmdk"
)

// TestMachineBetween starts the machine between the interruption of a commit
// and its end: what the guest writes then must be there at the end.
func TestMachineBetween(t *testing.T) {
	testenv.Long(t)
	for _, kind := range []baseKind{baseESX2, baseVMFS, baseSparse, baseCOWD} {
		for _, s := range scenarios() {
			if s.adds || s.discards {
				continue
			}
			t.Run(string(kind)+"/"+s.name, func(t *testing.T) {
				t.Parallel()
				d := newTestDisk(t, t.TempDir(), kind, noise(1001, 5))
				makeLevels(d, s.levels)
				machineBetween(t, d, s)
			})
		}
	}
}

func machineBetween(t *testing.T, d *testDisk, s scenario) {
	wrote := 0
	for stop := 1; ; stop++ {
		stopped := replica(t, d, stop)
		if err := s.run(stopped); err == nil {
			break
		} else if !errors.Is(err, errStopped) {
			t.Fatalf("stopped at %d: %v", stop, err)
		}
		left := &testDisk{t: t, dir: t.TempDir(), kind: d.kind, fs: OS(), model: slices.Clone(d.model), below: slices.Clone(d.below)}
		stopped.fs.(*crashFS).crash(t, left.dir, loseNothing, nil)
		if !writable(left) {
			continue
		}
		wrote++
		left.below = [][]byte{left.model} // what is below does not matter to grains of one sector
		left.write(piece{0, 2, 201}, piece{500, 7, 202})
		left.wantContent("before the end", left.top(), left.model)
		if err := s.run(left); err != nil && !errors.Is(err, disk.ErrUnsupported) {
			t.Fatalf("stopped at %d, again: %v", stop, err)
		}
		left.wantContent("at the end", left.top(), left.model)
		for _, n := range left.files() {
			if strings.Contains(n, ".vmstream-") {
				t.Fatalf("stopped at %d, again: %s is left", stop, n)
			}
		}
	}
	if wrote < 8 {
		t.Errorf("the guest wrote at %d points only", wrote)
	}
}

// writable reports if the top is a redo log, and not the base or its alias.
func writable(d *testDisk) bool {
	if d.kind == baseESX2 {
		return strings.HasSuffix(d.top(), redoSuffix)
	}
	desc, err := vmdk.ReadDescriptor(d.top())
	d.must(err)
	return strings.HasSuffix(desc.Descriptor.Extents[0].Name, "-delta.vmdk") && desc.Descriptor.ParentCID != vmdk.NoParent &&
		strings.HasPrefix(desc.Descriptor.Extents[0].Name, strings.TrimSuffix(filepath.Base(d.top()), ".vmdk"))
}

// TestPending has operations that are kept off by another that has not ended.
func TestPending(t *testing.T) {
	d := newTestDisk(t, t.TempDir(), baseVMFS, noise(1001, 5))
	makeLevels(d, 2)
	stopped := replica(t, d, 8)
	if _, err := Commit(t.Context(), stopped.named(), CommitOptions{Options: stopped.options()}); !errors.Is(err, errStopped) {
		t.Fatal(err)
	}
	left := &testDisk{t: t, dir: t.TempDir(), kind: d.kind, fs: OS()}
	stopped.fs.(*crashFS).crash(t, left.dir, loseNothing, nil)
	for _, path := range []string{left.named(), left.path("disk.vmdk"), left.path("disk-000001.vmdk")} {
		if _, err := Add(t.Context(), path, AddOptions{}); !errors.Is(err, disk.ErrInUse) || !strings.Contains(err.Error(), "redo commit again") {
			t.Errorf("add to %s: %v", path, err)
		}
		if _, err := Discard(t.Context(), path, DiscardOptions{}); !errors.Is(err, disk.ErrInUse) {
			t.Errorf("discard %s: %v", path, err)
		}
		c, err := List(t.Context(), path, Options{})
		if err != nil || c.Pending == nil || c.Pending.Operation != OpCommit || c.Pending.Child != left.path("disk-000002.vmdk") {
			t.Errorf("list %s: %+v, %v", path, c, err)
		}
	}
	n, err := Commit(t.Context(), left.named(), CommitOptions{Options: left.options()})
	if err != nil || !n.Resumed || n.Runs == 0 {
		t.Errorf("carried on: %+v, %v", n, err)
	}
	left.wantContent("carried on", left.top(), d.model)
}

// TestHostileJournals has journals that somebody else has put there.
func TestHostileJournals(t *testing.T) {
	const good = `{"vmstream_redo":1,"operation":"discard","phase":"remove","child":{"path":"disk-000001.vmdk"},"parent":{"path":"disk.vmdk"},"files":["disk-000001-delta.vmdk"]}`
	for name, c := range map[string]struct {
		from, to string
		want     error
	}{
		"another version":    {`"vmstream_redo":1`, `"vmstream_redo":2`, disk.ErrUnsupported},
		"unknown field":      {`"phase"`, `"faze"`, disk.ErrCorrupt},
		"unknown phase":      {`"phase":"remove"`, `"phase":"copy"`, disk.ErrCorrupt},
		"another operation":  {`"operation":"discard"`, `"operation":"commit"`, disk.ErrCorrupt},
		"another child":      {`"path":"disk-000001.vmdk"`, `"path":"disk-000009.vmdk"`, disk.ErrCorrupt},
		"child elsewhere":    {`"path":"disk-000001.vmdk"`, `"path":"../x/disk-000001.vmdk"`, disk.ErrCorrupt},
		"no child":           {`"child"`, `"grandchild"`, disk.ErrCorrupt},
		"parent elsewhere":   {`"path":"disk.vmdk"`, `"path":"../disk.vmdk"`, disk.ErrOutside},
		"file elsewhere":     {`"disk-000001-delta.vmdk"`, `"../precious"`, disk.ErrCorrupt},
		"the parent as file": {`"disk-000001-delta.vmdk"`, `"disk.vmdk"`, disk.ErrCorrupt},
		"a flat file":        {`"disk-000001-delta.vmdk"`, `"disk-flat.vmdk"`, disk.ErrMismatch},
		"not JSON":           {good, `hello`, disk.ErrCorrupt},
		"empty":              {good, ``, disk.ErrCorrupt},
	} {
		d := newTestDisk(t, t.TempDir(), baseVMFS, noise(100, 1))
		before := d.tree()
		text := strings.Replace(good, c.from, c.to, 1)
		d.must(os.WriteFile(d.path("disk-000001.vmdk.vmstream-discard"), []byte(text), 0o600))
		if _, err := Discard(t.Context(), d.path("disk.vmdk"), DiscardOptions{}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, expected %v", name, err, c.want)
		}
		after := d.tree()
		for n, b := range before {
			if after[n] != b {
				t.Errorf("%s: %s has changed", name, n)
			}
		}
	}
}

// FuzzJournal has journals of any content: none may lead to a panic, or to a
// file outside the directory.
func FuzzJournal(f *testing.F) {
	f.Add([]byte(`{"vmstream_redo":1,"operation":"add","phase":"switch","child":{"path":"c.vmdk"},"parent":{"path":"p.vmdk"},"files":["c-delta.vmdk"]}`))
	f.Add([]byte(`{"vmstream_redo":1,"operation":"commit","phase":"remove","esx2":true,"child":{"path":"c.vmdk"},"parent":{"path":"p.vmdk"},"grandchild":{"path":"../g"}}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		const dir = "/vm"
		for _, op := range []Operation{OpAdd, OpCommit, OpDiscard} {
			path := journalPath(filepath.Join(dir, "c.vmdk"), op)
			j, err := parseJournal(path, b, op, &Options{})
			if err != nil {
				continue
			}
			names := []string{j.child(), j.parent()}
			if j.Grandchild != nil {
				names = append(names, j.grandchild())
			}
			for _, n := range j.Files {
				names = append(names, j.abs(n))
			}
			for _, n := range names {
				if rel, err := filepath.Rel(dir, n); err != nil || !filepath.IsLocal(rel) {
					t.Errorf("%q leads to %s", b, n)
				}
			}
		}
	})
}

// FuzzEditDescriptor changes values of descriptors: what comes out reads as
// asked for, and everything else as before.
func FuzzEditDescriptor(f *testing.F) {
	f.Add([]byte("# Disk DescriptorFile\r\nversion=1\r\nCID = 12345678 \r\nparentCID=\"ffffffff\"\r\nRW 1 VMFS \"a\"\r\nDDB.longcontentid = \"x\"\r\n"))
	f.Add([]byte("version=1\nCID=1\nparentCID=2\nparentFileNameHint=a b\n# CID=3\nRW 1 ZERO"))
	f.Fuzz(func(t *testing.T, text []byte) {
		before, err := vmdk.ParseDescriptor(text)
		if err != nil {
			return
		}
		out, err := editDescriptor("x", text, map[string]string{keyCID: "0badcafe", keyLongContentID: strings.Repeat("0badcafe", 4)})
		if err != nil {
			return
		}
		after, err := vmdk.ParseDescriptor(out)
		if err != nil || after.CID != 0x0badcafe {
			t.Fatalf("%q: %v", out, err)
		}
		if after.ParentCID != before.ParentCID || after.ParentFileNameHint != before.ParentFileNameHint || !slices.Equal(after.Extents, before.Extents) || len(after.DDB) != len(before.DDB) {
			t.Fatalf("%q became %q", text, out)
		}
		again, err := editDescriptor("x", out, map[string]string{keyCID: "0badcafe", keyLongContentID: strings.Repeat("0badcafe", 4)})
		if err != nil || !bytes.Equal(again, out) {
			t.Fatalf("a second time: %q, %v", again, err)
		}
	})
}
