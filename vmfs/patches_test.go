// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
)

// TestDamage changes one field of a volume at a time.
func TestDamage(t *testing.T) {
	for _, name := range []string{"a-v5-plain", "a-v6-plain"} {
		x := loadExpected(t, name)
		devices := devicesOf(t, x)
		b, err := os.ReadFile(testenv.Corpus(t, "vmfs/synthetic/"+name+".damage.json"))
		if err != nil {
			t.Fatal(err)
		}
		var all struct{ Patches []patch }
		if err := json.Unmarshal(b, &all); err != nil {
			t.Fatal(err)
		}
		for _, p := range all.Patches {
			t.Run(name+"/"+p.ID, func(t *testing.T) {
				t.Parallel()
				testDamage(t, x, devices[0], p)
			})
		}
	}
}

func testDamage(t *testing.T, x *expected, d Device, p patch) {
	old, _ := hex.DecodeString(p.Old)
	changed, _ := hex.DecodeString(p.New)
	m := d.R.(*image)
	got := make([]byte, len(old))
	if _, err := m.ReadAt(got, p.Offset); err != nil || !bytes.Equal(got, old) {
		t.Fatalf("there is %x at %d, want %x", got, p.Offset, old)
	}
	d.R = m.patched(changed, p.Offset)
	f, err := Open([]Device{d}, Options{})
	if err != nil {
		t.Log(err)
		if !strings.HasPrefix(p.Expect, "refuse") {
			t.Errorf("%s: %v", p.Expect, err)
		}
		return
	}
	problems := (&checker{f: f, x: x, order: []int{0}, user: true}).all()
	for _, err := range problems {
		t.Log(err)
		if !errors.Is(err, disk.ErrCorrupt) && !errors.Is(err, disk.ErrTruncated) && !errors.Is(err, disk.ErrUnsupported) && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("not told as damage: %v", err)
		}
	}
	only := func(names []string, below bool) {
		for name := range problems {
			if !slices.ContainsFunc(names, func(n string) bool { return name == n || below && strings.HasPrefix(name, n+"/") }) {
				t.Errorf("%q fails too: %v", name, problems[name])
			}
		}
	}
	var paths []string
	for _, n := range p.Paths {
		paths = append(paths, strings.Trim(n, "/"))
	}
	switch p.Expect {
	case "refuse":
		t.Error("is not refused")
	case "refuse-or-errors":
		if len(problems) == 0 {
			t.Error("nothing is wrong")
		}
	case "refuse-or-same":
		only(nil, false)
	case "file-error":
		only(paths, false)
		if len(problems) != len(paths) {
			t.Errorf("%d of %d files fail", len(problems), len(paths))
		}
	case "same-or-file-error":
		only(paths, false)
	case "dir-error":
		only(paths, true)
		if len(problems) == 0 {
			t.Error("nothing is wrong")
		}
	case "same":
		only(nil, false)
	default:
		t.Errorf("%s is not known", p.Expect)
	}
	walkDamaged(t, f)
}

// walkDamaged has a walk come to its end.
func walkDamaged(t *testing.T, f *FS) {
	n := 0
	_ = fs.WalkDir(f, ".", func(name string, _ fs.DirEntry, _ error) error {
		if n++; n > 100_000 || strings.Contains(path.Base(name), "..") && name != ".." {
			t.Fatalf("the walk comes to %q", name)
		}
		return nil
	})
}

// TestSecondSample has a host beat between two looks.
func TestSecondSample(t *testing.T) {
	for _, name := range volumes(t) {
		x := loadExpected(t, name)
		if len(x.SecondSample) == 0 {
			continue
		}
		devices := devicesOf(t, x)
		before, err := Open(devices, Options{})
		if err != nil {
			t.Fatal(err)
		}
		first, err := before.Heartbeats()
		if err != nil {
			t.Fatal(err)
		}
		if live := Live(first, first); len(live) != 0 {
			t.Errorf("%s: without a beat %+v live", name, live)
		}
		p := x.SecondSample[0]
		changed, _ := hex.DecodeString(p.New)
		d := &devices[int(p.Device.(float64))]
		d.R = d.R.(*image).patched(changed, p.Offset)
		after, err := Open(devices, Options{})
		if err != nil {
			t.Fatal(err)
		}
		second, err := after.Heartbeats()
		if err != nil {
			t.Fatal(err)
		}
		if live := Live(first, second); len(live) != 1 {
			t.Errorf("%s: %+v live", name, live)
		}
	}
}
