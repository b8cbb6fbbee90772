// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package freespace

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// lvmVolumes are logical volumes of all sorts, in extents of 4 MiB. Only root is one that
// is in plain pieces.
const lvmVolumes = `
	logical_volumes {
		root { id = "aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggggg" status = ["READ", "WRITE", "VISIBLE"] segment_count = 2
			segment1 { start_extent = 0 extent_count = 20 # a comment }
				type = "striped" stripe_count = 1 stripes = [ "pv0", 30 ] }
			segment2 { start_extent = 20 extent_count = 10 type = "striped" stripe_count = 1 stripes = [ "pv0", 5 ] }
		}
		origin { id = "aaaaaa-bbbb-cccc-dddd-eeee-ffff-hhhhhh" status = ["READ", "WRITE", "VISIBLE"] segment_count = 1
			segment1 { start_extent = 0 extent_count = 2 type = "striped" stripe_count = 1 stripes = [ "pv0", 50 ] } }
		cow { id = "aaaaaa-bbbb-cccc-dddd-eeee-ffff-iiiiii" status = ["READ", "WRITE"] segment_count = 1
			segment1 { start_extent = 0 extent_count = 2 type = "striped" stripe_count = 1 stripes = [ "pv0", 52 ] } }
		snapshot0 { id = "aaaaaa-bbbb-cccc-dddd-eeee-ffff-jjjjjj" status = ["READ", "WRITE", "VISIBLE"] segment_count = 1
			segment1 { start_extent = 0 extent_count = 2 type = "snapshot" chunk_size = 8 origin = "origin" cow_store = "cow" } }
		nothing { id = "aaaaaa-bbbb-cccc-dddd-eeee-ffff-kkkkkk" status = ["READ", "WRITE", "VISIBLE"] segment_count = 1
			segment1 { start_extent = 0 extent_count = 2 type = "zero" } }
	}
`

// TestLVM has LVM write its metadata, and puts a file system on a logical volume.
func TestLVM(t *testing.T) {
	tools := []string{"losetup", "pvcreate", "vgcreate", "vgcfgbackup", "vgcfgrestore"}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil || os.Geteuid() != 0 {
			t.Skipf("needs %s, and root", tool)
		}
	}
	path := filepath.Join(t.TempDir(), "pv.img")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 300<<20)); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "losetup", "--find", "--show", path).Output()
	if err != nil {
		t.Skip("there is no loop device: ", err)
	}
	loop, detached := strings.TrimSpace(string(out)), false
	detach := func() {
		if !detached {
			run(t, "losetup", "--detach", loop)
		}
		detached = true
	}
	defer detach()
	group := fmt.Sprintf("vmstream%d", os.Getpid())
	text := filepath.Join(t.TempDir(), "group")
	run(t, "pvcreate", loop)
	run(t, "vgcreate", group, loop)
	run(t, "vgcfgbackup", "-f", text, group)
	b, err := os.ReadFile(text)
	if err != nil {
		t.Fatal(err)
	}
	end := strings.LastIndex(string(b), "}")
	if err := os.WriteFile(text, slices.Concat(b[:end], []byte(lvmVolumes), b[end:]), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "vgcfgrestore", "--force", "-f", text, group).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	detach()

	image, _ := makeExt(t, 600, "120M", "-t", "ext4")
	fs, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	const extent, start = 4 << 20, 1 << 20
	pv, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = pv.WriteAt(fs[:20*extent], start+30*extent)
	_, err2 := pv.WriteAt(fs[20*extent:], start+5*extent)
	if err := errors.Join(err, err2, pv.Close()); err != nil {
		t.Fatal(err)
	}
	want := find(t, image, "ext4")
	m, err := Find(t.Context(), openImage(t, path))
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Volumes) != 2 || m.Volumes[0].Kind != "LVM" || m.Volumes[0].FreeBytes != 0 || m.Volumes[1].Name != "LVM "+group+"/root" || m.Volumes[1].Kind != "ext4" || m.FreeBytes != want.FreeBytes {
		t.Fatalf("%+v, want %d bytes", m.Volumes, want.FreeBytes)
	}
	back, err := os.ReadFile(zeroed(t, m, path))
	if err != nil {
		t.Fatal(err)
	}
	again := filepath.Join(t.TempDir(), "again.img")
	if err := os.WriteFile(again, slices.Concat(back[start+30*extent:start+50*extent], back[start+5*extent:start+15*extent]), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "e2fsck", "-fn", again)
	run(t, "cmp", again, zeroed(t, want, image))

	// The same in a partition, and with metadata that are damaged.
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	disk := append(mbrDisk(1<<20, [3]uint32{0x8E, 2048, uint32(len(whole) / 512)}), whole...)
	if m, err = Find(t.Context(), disk); err != nil || m.FreeBytes != want.FreeBytes {
		t.Errorf("in a partition: %+v, %v", m.Volumes, err)
	}
	for _, at := range []int{512 + 30, 4096 + 4, 4096 + 512 + 100} {
		broken := slices.Clone(whole)
		for i := range 4096 {
			broken[min(at+i*512, 1<<20-1)] ^= 0xFF
		}
		if m, err := Find(t.Context(), memory(broken)); err != nil || m.FreeBytes != 0 {
			t.Errorf("damaged at %d: %+v, %v", at, m.Volumes, err)
		}
	}
}

// FuzzLVM reads texts.
func FuzzLVM(f *testing.F) {
	f.Add([]byte("contents = \"x\"\nvg0 {" + lvmVolumes + "}"))
	f.Add([]byte("vg0 { extent_size = 8192 physical_volumes { pv0 { id = \"\" pe_start = 2048 pe_count = 3 } } logical_volumes { a { status = [\"VISIBLE\"] segment_count = 1 segment1 { start_extent = 0 extent_count = 1 type = \"striped\" stripe_count = 1 stripes = [\"pv0\", 1] } } } }"))
	f.Fuzz(func(t *testing.T, text []byte) {
		root, err := parseLVM(text)
		if err != nil {
			return
		}
		for name, s := range root.sections {
			if s.sections["physical_volumes"] == nil {
				continue
			}
			v := &volume{area: whole("", 0, 100<<20)}
			areas, err := (&lvmGroup{v: v, name: name, section: s}).volumes("")
			if err != nil {
				return
			}
			for _, a := range areas {
				for _, p := range a.pieces {
					if p.on < 0 || p.length <= 0 || p.on+p.length > 100<<20 {
						t.Fatalf("%+v", a)
					}
				}
			}
		}
	})
}
