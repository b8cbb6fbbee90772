// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
)

// checkAll returns all that Check finds.
func checkAll(tb testing.TB, f *FS) (problems, notes []Problem, sum Summary) {
	tb.Helper()
	sum, err := f.Check(tb.Context(), func(p Problem) {
		if p.Note {
			notes = append(notes, p)
		} else {
			problems = append(problems, p)
		}
	})
	if err != nil {
		tb.Fatal(err)
	}
	return problems, notes, sum
}

// kinds are those of problems, without repetition.
func kinds(problems []Problem) string {
	set := map[string]struct{}{}
	for _, p := range problems {
		set[string(p.Kind)] = struct{}{}
	}
	return strings.Join(slices.Sorted(maps.Keys(set)), " ")
}

// TestCheckVolumes finds nothing wrong with sound volumes, but the locks in them.
func TestCheckVolumes(t *testing.T) {
	for _, name := range volumes(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := loadExpected(t, name)
			f, err := Open(devicesOf(t, x), Options{})
			if err != nil {
				t.Fatal(err)
			}
			problems, notes, sum := checkAll(t, f)
			for _, p := range problems {
				t.Error(p)
			}
			var hosts, locks, held, wantHosts, wantLocks, wantHeld int
			for _, p := range notes {
				switch {
				case p.Kind == AboutHeartbeat:
					hosts++
				case p.Kind == AboutLock && !strings.HasPrefix(p.Path, "."):
					locks++
					if strings.HasPrefix(p.Detail, "locked") {
						held++
					}
				case p.Kind != AboutLock:
					t.Error(p)
				}
			}
			for _, h := range x.Heartbeats {
				if h.InUse {
					wantHosts++
				}
			}
			entries := 0
			for _, e := range x.Entries {
				entries++
				if e.Lock == nil || e.Lock.Mode == 0 {
					continue
				}
				if wantLocks++; strings.HasPrefix(e.Lock.Verdict, "held") {
					wantHeld++
				}
			}
			if hosts != wantHosts || sum.HostsInUse != wantHosts || locks != wantLocks || held != wantHeld {
				t.Errorf("%d hosts, %d locks, %d of them held, want %d, %d, %d", hosts, locks, held, wantHosts, wantLocks, wantHeld)
			}
			if n := sum.Directories + sum.Files + sum.Symlinks + sum.Mappings + sum.System; n != entries {
				t.Errorf("%d files, want %d", n, entries)
			}
			// What the maker counts does not have large blocks in it.
			if free := sum.Tables[0].Free; int64(free) != x.FreeBlocks && sum.Bitmaps {
				t.Errorf("%d blocks are free, want %d", free, x.FreeBlocks)
			}
		})
	}
}

// TestCheckReal finds nothing wrong with what an ESX host has made.
func TestCheckReal(t *testing.T) {
	problems, notes, sum := checkAll(t, openReal(t))
	if len(problems) > 0 || len(notes) > 0 {
		t.Errorf("%v %v", problems, notes)
	}
	if b := sum.Tables[0]; b.Name != ".fbb.sf" || b.Total != 1024 || b.Used != 674 || b.Free != 350 || !sum.Bitmaps {
		t.Errorf("%+v", sum)
	}
}

// TestCheckDamage changes one field of a volume at a time: either the volume cannot be
// opened, or something is wrong with it.
func TestCheckDamage(t *testing.T) {
	for _, name := range []string{"a-v5-plain", "a-v6-plain"} {
		d := devicesOf(t, loadExpected(t, name))[0]
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
				changed, _ := hex.DecodeString(p.New)
				d := d
				d.R = d.R.(*image).patched(changed, p.Offset)
				f, err := Open([]Device{d}, Options{})
				if err != nil {
					t.Log(err)
					return
				}
				problems, notes, _ := checkAll(t, f)
				if p.ID == "lvm-numPEs-0" { // nothing is lost by it, and LVM6 has another counter
					problems = notes
				}
				if len(problems) == 0 {
					t.Error("nothing is wrong")
				}
				for _, p := range problems {
					t.Log(p)
				}
			})
		}
	}
}

// harm changes a volume of one device.
type harm struct {
	t *testing.T
	m *image
	f *FS
}

func newHarm(t *testing.T, d Device) *harm {
	f, err := Open([]Device{d}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &harm{t, d.R.(*image).clone(), f}
}

// at returns bytes at an offset in the volume.
func (h *harm) at(off int64, n int) []byte {
	b := make([]byte, n)
	if err := h.f.vol.readFull(b, off, "test"); err != nil {
		h.t.Fatal(err)
	}
	return b
}

func (h *harm) put(off int64, b ...byte) {
	_, at, ok := h.f.vol.find(off)
	if !ok {
		h.t.Fatalf("%d is not in the volume", off)
	}
	h.m = h.m.patched(b, at)
}

func (h *harm) put32(off int64, v uint32) { h.put(off, binary.LittleEndian.AppendUint32(nil, v)...) }

// in is the offset in the volume of one in a file.
func (h *harm) in(l *layout, off int64) int64 {
	s, err := l.lookup(off, 0)
	if err != nil || s.where != Stored {
		h.t.Fatalf("%+v, %v", s, err)
	}
	return s.offset
}

func (h *harm) stat(name string) *Stat {
	fi, err := h.f.Lstat(name)
	if err != nil {
		h.t.Fatal(err)
	}
	return fi.Sys().(*Stat)
}

func (h *harm) inode(name string) *inode {
	n, err := h.f.walk(name)
	if err != nil {
		h.t.Fatal(err)
	}
	return n
}

// cluster is the offset in the volume of the header of a cluster.
func (h *harm) cluster(r *resources, n uint64) int64 { return h.in(r.file, int64(r.clusterHeader(n))) }

// flip changes the bit of a resource.
func (h *harm) flip(r *resources, number uint64) {
	i := number % r.perCluster
	at := h.cluster(r, number/r.perCluster) + clusterMeta + clusterBitmap + int64(i/8)
	h.put(at, h.at(at, 1)[0]^1<<(i%8))
}

// find returns a resource that is in use, or one that is not.
func (h *harm) find(r *resources, used bool) uint64 {
	for n := range r.total {
		i := n % r.perCluster
		at := h.cluster(r, n/r.perCluster) + clusterMeta + clusterBitmap + int64(i/8)
		if free := h.at(at, 1)[0]>>(i%8)&1 == 1; free != used {
			return n
		}
	}
	h.t.Fatalf("%s has none", r.name)
	return 0
}

func (h *harm) entryOf(dir, name string) int64 {
	n := h.inode(dir)
	for off := int64(0); off < n.layout.size; off += entryLen {
		at := h.in(&n.layout, off)
		if b := fields(h.at(at, entryLen)); b.text(entryName, entryNameLen) == name {
			return at
		}
	}
	h.t.Fatalf("%s is not in %s", name, dir)
	return 0
}

// TestCheckHarm does harm of each kind, and has it be found, and nothing else.
func TestCheckHarm(t *testing.T) {
	const meta = 512 // of a file descriptor
	table := func(h *harm, name string) *resources {
		fbb, err := h.f.blockTable()
		if err != nil {
			h.t.Fatal(err)
		}
		return map[string]*resources{"fbb": fbb, "fdc": h.f.fdc, "sbc": h.f.sbc, "pbc": h.f.pbc, "pb2": h.f.pb2}[name]
	}
	tests := []struct {
		name string
		do   func(h *harm)
		want string // kinds
		text string // of one of them
	}{
		{"nothing", func(*harm) {}, "", ""},
		{"free counter", func(h *harm) { h.put(h.cluster(h.f.sbc, 1)+clusterMeta+8, 3) }, "count", "says that 3 sub-blocks are free"},
		{"lock of a cluster", func(h *harm) { h.put(h.cluster(h.f.fdc, 2), 3) }, "cluster", "lock type 10c00003"},
		{"address of a cluster", func(h *harm) { h.put(h.cluster(h.f.fdc, 2)+4, 1) }, "cluster", "its lock says that it lies at"},
		{"number of a cluster", func(h *harm) { h.put(h.cluster(h.f.pbc, 1)+clusterMeta, 9) }, "cluster", "says that it is cluster 9"},
		{"size of a cluster", func(h *harm) { h.put(h.cluster(h.f.pbc, 1)+clusterMeta+4, 9) }, "cluster", "says that it has 9 of 16"},
		{"bit behind the last", func(h *harm) { h.put(h.cluster(h.f.pbc, 1)+clusterMeta+clusterBitmap+20, 1) }, "cluster", "1 pointer blocks are free behind"},
		{"blocks of a file", func(h *harm) { h.put(h.stat("web01/web01-flat.vmdk").Offset+meta+0x24, 99) }, "count", "says that it has 99 blocks"},
		{"tbz of a file", func(h *harm) { h.put(h.stat("disks/lazy-flat.vmdk").Offset+meta+0x48, 99) }, "count", "says that 99 blocks are to be zeroed"},
		{"links of a file", func(h *harm) { h.put(h.stat("web01/web01.vmx").Offset+meta+8, 2) }, "links", "link count of 2"},
		{"links of a directory", func(h *harm) { h.put(h.stat("web01").Offset+meta+8, 9) }, "links", "link count of 9"},
		{"entry .", func(h *harm) { h.put32(h.entryOf("web01", ".")+4, rootAddress) }, "parent", "the entry . leads to"},
		{"entry ..", func(h *harm) { h.put32(h.entryOf("web01", "..")+4, systemAddress(3)) }, "parent", "the entry .. leads to"},
		{"file without a name", func(h *harm) { h.put32(h.entryOf("web01", "web01-flat.vmdk")+4, 0) }, "orphan", "a file of 25165824 bytes is in no directory"},
		{"directory without a name", func(h *harm) { h.put32(h.entryOf("data", "sub")+4, 0) }, "links orphan", "a dir of"},
		{"file with two names", func(h *harm) {
			to := h.entryOf("web01", "web01.vmx")
			b := h.at(h.entryOf("web01", "web01.nvram"), 12)
			h.put(to, b...)
		}, "orphan shared", `in use by ["web01/web01.vmx" "web01/web01.nvram"]`},
		{"block of two files", func(h *harm) {
			from, to := h.stat("disks/lazy-flat.vmdk").Offset+1024, h.stat("web01/web01-flat.vmdk").Offset+1024
			b := fields(h.at(from, 4))
			h.put32(to, b.u32(0)&^0x20)
		}, "lost shared", `"web01/web01-flat.vmdk"`},
		{"pointer block of two files", func(h *harm) {
			from, to := h.stat("big/double-small.bin").Offset+1024, h.stat("big/double-300GiB.bin").Offset+1024
			h.put(to, h.at(from, 4)...)
		}, "lost shared", `"big/double-small.bin"`},
		{"block behind the end", func(h *harm) { h.put(h.stat("web01/web01-flat.vmdk").Offset+1024, 1, 0, 0xff, 0xff) }, "address lost", "lies at"},
		{"heartbeat", func(h *harm) { h.put(heartbeatsAt+5*512+4, 1) }, "heartbeat", "heartbeat slot 5"},
		{"table of clusters", func(h *harm) { h.put(h.in(table(h, "fbb").file, 0x10), 1) }, "unreadable", ".fbb.sf header"},
		{"too many blocks", func(h *harm) { h.put(h.in(table(h, "fbb").file, 0x14)+1, 5) }, "cluster header lost", "the volume has room for 1024"},
	}
	for _, name := range []string{"fbb", "fdc", "sbc", "pbc", "pb2"} {
		tests = append(tests, struct {
			name string
			do   func(h *harm)
			want string
			text string
		}{name + " in use and free", func(h *harm) { h.flip(table(h, name), h.find(table(h, name), true)) }, "count unallocated", "in use and said to be free"}, struct {
			name string
			do   func(h *harm)
			want string
			text string
		}{name + " lost", func(h *harm) { h.flip(table(h, name), h.find(table(h, name), false)) }, "count lost", "no file has it"})
	}
	d := devicesOf(t, loadExpected(t, "a-v5-plain"))[0]
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := newHarm(t, d)
			test.do(h)
			f, err := Open([]Device{{Name: "harm", R: h.m, SizeBytes: h.m.size}}, Options{})
			if err != nil {
				if test.want != "" {
					t.Fatal(err)
				}
				return
			}
			problems, _, _ := checkAll(t, f)
			if got := kinds(problems); got != test.want {
				t.Errorf("found %q, want %q", got, test.want)
			}
			if !slices.ContainsFunc(problems, func(p Problem) bool { return strings.Contains(p.String(), test.text) }) && test.text != "" {
				t.Errorf("nothing is like %q", test.text)
			}
			if t.Failed() || testing.Verbose() {
				for _, p := range problems {
					t.Log(p)
				}
			}
		})
	}
}

// TestCheckStops ends with its context.
func TestCheckStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := openReal(t).Check(ctx, func(Problem) {}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
