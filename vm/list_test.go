// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vm"
)

// list collects what List yields.
func list(ctx context.Context, dirs []string, o vm.ListOptions) (found []vm.Summary, errs []error) {
	for s, err := range vm.List(ctx, dirs, o) {
		if err != nil {
			errs = append(errs, err)
		} else {
			found = append(found, s)
		}
	}
	return found, errs
}

func paths(dir string, found []vm.Summary) []string {
	var p []string
	for _, s := range found {
		p = append(p, s.Path)
	}
	return shorten(dir, p)
}

func TestList(t *testing.T) {
	dir := tree(t, map[string]string{
		"ds1/web/web.vmx":         "config.version = \"8\"\ndisplayName = \"Web 01\"\nguestOS = \"rhel6-64\"\n" + present("scsi0:0", "web.vmdk") + present("scsi0:1", "web_1.vmdk"),
		"ds1/web/web.vmdk":        "",
		"ds1/web/web_1.vmdk":      "",
		"ds1/web/web.vmsd":        twoSnapshots,
		"ds1/web/web.vmss":        "",
		"ds1/web/web.vmx.lck":     "",
		"ds1/web/web.vmx.lck2":    "",
		"ds1/x.lck/x.vmx":         "config.version = \"8\"\n",
		"ds1/old/old.cfg":         "displayName = \"old\"\nscsi0.virtualDev = \"vmxbuslogic\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.name = \"vmhba0:0:0:1:old.dsk\"\n",
		"ds1/old/old.dsk":         strings.Repeat("x", 1500),
		"ds1/old/apache.cfg":      "Listen = 80\n",
		"ds1/old/binary.cfg":      "\x00",
		"ds1/broken/broken.vmx":   "\x00",
		"ds1/broken/empty.vmx":    "",
		"ds1/gone/gone.vmx":       "displayName = \"gone\"\n" + present("ide0:0", "gone.vmdk"),
		"ds1/enc/enc.vmx":         "displayName = \"enc\"\nencryption.keySafe = \"x\"\n",
		"ds1/loop":                "-> ../ds1",
		"ds1/linked.vmx":          "-> web/web.vmx",
		"ds1/dir.vmx/inner.vmx":   "config.version = \"8\"\n",
		"ds1/only disk/only.cfg":  present("scsi0:0", "o.vmdk"),
		"ds1/only disk/o.vmdk":    "",
		"ds1/unknown/unknown.vmx": present("scsi0:0", "u.vmdk"),
		"ds1/unknown/u.vmdk":      "",
	})
	capacity := func(path string) (int64, error) {
		if filepath.Base(path) == "u.vmdk" {
			return 0, errors.New("no descriptor")
		}
		return 1 << 30, nil
	}
	found, errs := list(t.Context(), []string{dir, dir + "/ds1/", filepath.Join(dir, "ds1/loop"), "/no/such/dir"}, vm.ListOptions{Capacity: capacity})
	if len(errs) != 1 || !errors.Is(errs[0], fs.ErrNotExist) {
		t.Errorf("errors %v", errs)
	}
	want := []vm.Summary{
		{Name: "broken", Path: "broken/broken.vmx", Err: disk.ErrUnknown},
		{Name: "empty", Path: "broken/empty.vmx", Err: disk.ErrUnknown},
		{Name: "inner", Path: "dir.vmx/inner.vmx"},
		{Name: "enc", Path: "enc/enc.vmx", Encrypted: true, Err: disk.ErrUnsupported},
		{Name: "gone", Path: "gone/gone.vmx", Disks: 1, Err: fs.ErrNotExist},
		{Name: "old", Path: "old/old.cfg", Disks: 1, CapacityBytes: 1024},
		{Name: "only", Path: "only disk/only.cfg", Disks: 1, CapacityBytes: 1 << 30},
		{Name: "unknown", Path: "unknown/unknown.vmx", Disks: 1, Warnings: []string{"scsi0:0: its capacity is not known: no descriptor"}},
		{Name: "Web 01", Path: "web/web.vmx", GuestOS: "rhel6-64", Disks: 2, CapacityBytes: 2 << 30, Snapshots: 2, Suspended: true, InUse: []string{"lock web/web.vmx.lck"}},
	}
	if len(found) != len(want) {
		t.Fatalf("found %q", paths(dir, found))
	}
	for i, w := range want {
		g := found[i]
		if !errors.Is(g.Err, w.Err) || (g.Err == nil) != (g.Error == "") {
			t.Errorf("%s: error %v, %q, want %v", w.Path, g.Err, g.Error, w.Err)
		}
		g.Path, g.InUse = strings.TrimPrefix(g.Path, dir+"/ds1/"), shorten(dir+"/ds1", g.InUse)
		checkPrefixes(t, g.Warnings, w.Warnings)
		if !slices.Equal(g.InUse, w.InUse) {
			t.Errorf("%s: in use %q, want %q", w.Path, g.InUse, w.InUse)
		}
		g.Err, g.Error, g.InUse, g.Warnings, w.Err, w.InUse, w.Warnings = nil, "", nil, nil, nil, nil, nil
		if got, want := encode(t, g), encode(t, w); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func encode(t *testing.T, s vm.Summary) string {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestSummaryJSON(t *testing.T) {
	s := vm.Summary{Name: "n", Path: "/p", GuestOS: "g", Disks: 1, CapacityBytes: 2, Snapshots: 3, Suspended: true, InUse: []string{"u"}, Encrypted: true, Warnings: []string{"w"}, Error: "e", Err: errors.New("e")}
	want := `{"name":"n","path":"/p","guest_os":"g","disks":1,"capacity_bytes":2,"snapshots":3,"suspended":true,"in_use":["u"],"encrypted":true,"warnings":["w"],"error":"e"}`
	if got := encode(t, s); got != want {
		t.Errorf("got %s", got)
	}
	if got, want := encode(t, vm.Summary{}), `{"name":"","path":"","disks":0,"snapshots":0,"suspended":false}`; got != want {
		t.Errorf("got %s", got)
	}
}

func TestListDepth(t *testing.T) {
	config := "config.version = \"8\"\n"
	dir := tree(t, map[string]string{
		"0.vmx": config, "a/1.vmx": config, "a/b/2.vmx": config, "c/": "",
		"1/2/3/4/5/6/7/8/d.vmx": config, "1/2/3/4/5/6/7/8/9/e.vmx": config,
	})
	for _, tt := range []struct {
		depth int
		dirs  []string
		want  []string
		errs  int
	}{
		{0, []string{""}, []string{"0.vmx", "1/2/3/4/5/6/7/8/d.vmx", "a/1.vmx", "a/b/2.vmx"}, 1},
		{-1, []string{""}, []string{"0.vmx"}, 1},
		{1, []string{""}, []string{"0.vmx", "a/1.vmx"}, 1},
		{1, []string{"", "a/b"}, []string{"0.vmx", "a/1.vmx", "a/b/2.vmx"}, 1},
		{9, []string{"1", "1/2/3", "1"}, []string{"1/2/3/4/5/6/7/8/d.vmx", "1/2/3/4/5/6/7/8/9/e.vmx"}, 0},
	} {
		var roots []string
		for _, d := range tt.dirs {
			roots = append(roots, filepath.Join(dir, d))
		}
		found, errs := list(t.Context(), roots, vm.ListOptions{MaxDepth: tt.depth})
		if got := paths(dir, found); !slices.Equal(got, tt.want) || len(errs) != tt.errs {
			t.Errorf("depth %d of %q: %q, %v", tt.depth, tt.dirs, got, errs)
		}
	}
}

func TestListStops(t *testing.T) {
	config := "config.version = \"8\"\n"
	dir := tree(t, map[string]string{"a.vmx": config, "b.vmx": config, "c/c.vmx": config})
	n := 0
	for range vm.List(t.Context(), []string{dir}, vm.ListOptions{}) {
		if n++; n == 2 {
			break
		}
	}
	if n != 2 {
		t.Errorf("%d machines", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	found, errs := 0, []error{}
	for _, err := range vm.List(ctx, []string{dir}, vm.ListOptions{}) {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		found++
		cancel()
	}
	if found != 1 || len(errs) != 1 || !errors.Is(errs[0], context.Canceled) {
		t.Errorf("%d machines, %v", found, errs)
	}
}

func TestListNotADirectory(t *testing.T) {
	dir := tree(t, map[string]string{"a.vmx": "config.version = \"8\"\n"})
	found, errs := list(t.Context(), []string{filepath.Join(dir, "a.vmx")}, vm.ListOptions{})
	if len(found) != 0 || len(errs) != 1 || !errors.Is(errs[0], disk.ErrUnsupported) {
		t.Errorf("%v, %v", found, errs)
	}
}
