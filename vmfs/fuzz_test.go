// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"testing"
)

// fuzzPlaces puts bytes in the place of a structure of a volume, and reads the volume:
// whatever they are, reading comes to an end, and every error tells of damage. places
// returns where the structures lie on the first device, and how long they are.
func fuzzPlaces(f *testing.F, volume string, places func(v *FS) []place) {
	d := devicesOf(f, loadExpected(f, volume))[0]
	m := d.R.(*image)
	v, err := Open([]Device{d}, Options{})
	if err != nil {
		f.Fatal(err)
	}
	all := places(v)
	for i, p := range all {
		b := make([]byte, p.length)
		if _, err := m.ReadAt(b, p.at); err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), uint16(0), b)
		f.Add(uint8(i), uint16(p.length/2), []byte{0xff, 0xff, 0xff, 0xff})
	}
	f.Fuzz(func(t *testing.T, which uint8, off uint16, b []byte) {
		if int(which) >= len(all) || int(off)+len(b) > all[which].length || len(b) == 0 {
			t.Skip()
		}
		v, err := Open([]Device{{Name: "fuzz", R: m.patched(b, all[which].at+int64(off)), SizeBytes: m.size}}, Options{})
		if err != nil {
			if !isDamage(err) {
				t.Fatalf("not told as damage: %v", err)
			}
			return
		}
		survey(t, v)
		if _, err := v.Heartbeats(); err != nil && !isDamage(err) {
			t.Fatalf("not told as damage: %v", err)
		}
	})
}

// place is where a structure lies on a device.
type place struct {
	at     int64
	length int
}

// on finds a place of the volume on its device.
func on(v *FS, logical int64, length int) place {
	_, at, ok := v.vol.find(logical)
	if !ok {
		panic("the volume has no such place")
	}
	return place{at, length}
}

// descriptorsOf returns the places of file descriptors.
func descriptorsOf(v *FS, names ...string) []place {
	var all []place
	for _, name := range names {
		n, err := v.walk(name)
		if err != nil {
			panic(err)
		}
		all = append(all, on(v, n.stat.Offset, int(v.header.fdBytes())))
	}
	return all
}

// contentsOf returns the places where files begin.
func contentsOf(v *FS, length int, names ...string) []place {
	var all []place
	for _, name := range names {
		n, err := v.walk(name)
		if err != nil {
			panic(err)
		}
		s, err := n.layout.extend(0, 1, 0)
		if err != nil {
			panic(err)
		}
		all = append(all, on(v, s.offset, length))
	}
	return all
}

func fixed(places ...place) func(*FS) []place { return func(*FS) []place { return places } }

// clusters returns the headers of the tables of a volume, and those of their first clusters.
func clusters(v *FS) []place {
	var all []place
	for _, t := range []*resources{v.fdc, v.pbc, v.sbc, v.pb2} {
		if t == nil || t.total == 0 {
			continue
		}
		for _, off := range []int64{0, int64(t.clusterHeader(0))} {
			s, err := t.file.extend(off, 1, 0)
			if err != nil {
				panic(err)
			}
			all = append(all, on(v, s.offset, 1024))
		}
	}
	return all
}

// pointerBlocks returns those of files.
func pointerBlocks(v *FS, length int, names ...string) []place {
	var all []place
	for _, name := range names {
		n, err := v.walk(name)
		if err != nil {
			panic(err)
		}
		for _, a := range n.layout.addrs {
			if a == 0 {
				continue
			}
			t := v.pbc
			if a.kind() == kindPointers2 {
				t = v.pb2
			}
			at, err := t.position(v.header.resource(a))
			if err != nil {
				panic(err)
			}
			s, err := t.file.extend(at, 1, 0)
			if err != nil {
				panic(err)
			}
			all = append(all, on(v, s.offset, length))
			break
		}
	}
	return all
}

func FuzzPartitionsMBR(f *testing.F) {
	f.Add(uint8(0), uint16(4), []byte{0xff, 0xff})
	fuzzPlaces(f, "a-v3-bs8-mbr", fixed(place{0, 512}))
}

func FuzzPartitionsGPT(f *testing.F) {
	f.Add(uint8(0), uint16(4), []byte{0xff, 0xff})
	fuzzPlaces(f, "a-v5-gpt", fixed(place{0, 512}, place{512, 512}, place{1024, 4096}))
}

func FuzzLVM(f *testing.F) {
	f.Add(uint8(0), uint16(4), []byte{0xff, 0xff})
	fuzzPlaces(f, "a-v5-plain", fixed(place{lvmHeaderAt, 1024}, place{peMapsAt, 2048}))
}

func FuzzHeader(f *testing.F) {
	f.Add(uint8(0), uint16(4), []byte{0xff, 0xff})
	fuzzPlaces(f, "a-v5-plain", func(v *FS) []place { return []place{on(v, headerAt, 1024)} })
}

func FuzzHeader6(f *testing.F) {
	f.Add(uint8(0), uint16(4), []byte{0xff, 0xff})
	fuzzPlaces(f, "a-v6-plain", func(v *FS) []place { return []place{on(v, headerAt, 1024)} })
}

func FuzzHeartbeat(f *testing.F) {
	f.Add(uint8(0), uint16(4), []byte{0xff, 0xff})
	fuzzPlaces(f, "a-v5-plain", func(v *FS) []place { return []place{on(v, heartbeatsAt+1331*512, 512)} })
}

func FuzzLock(f *testing.F) {
	f.Add(uint8(0), uint16(4), []byte{0xff, 0xff})
	fuzzPlaces(f, "a-v5-plain", func(v *FS) []place {
		all := descriptorsOf(v, "locked/exclusive.log", "locked/multiwriter.log", "locked/readonly-shared.log")
		for i := range all {
			all[i].length = lockLen
		}
		return all
	})
}

func FuzzDescriptor(f *testing.F) {
	f.Add(uint8(0), uint16(4), []byte{0xff, 0xff})
	fuzzPlaces(f, "a-v5-plain", func(v *FS) []place {
		return descriptorsOf(v, ".", "web01", "web01/web01.vmx", "web01/web01-flat.vmdk", "big/pb-small.bin", "big/double-small.bin", "data/link-abs", "rdm/data-rdm.vmdk")
	})
}

func FuzzDescriptor6(f *testing.F) {
	f.Add(uint8(0), uint16(4), []byte{0xff, 0xff})
	fuzzPlaces(f, "a-v6-plain", func(v *FS) []place {
		return descriptorsOf(v, ".", "web01", "web01/web01.vmx", "web01/web01-flat.vmdk", "rdm/data-rdm.vmdk")
	})
}

func FuzzDirectory(f *testing.F) {
	f.Add(uint8(0), uint16(4), []byte{0xff, 0xff})
	fuzzPlaces(f, "a-v5-plain", func(v *FS) []place { return contentsOf(v, 2*entryLen, ".", "web01", "data/sub") })
}

func FuzzDirectory6(f *testing.F) {
	f.Add(uint8(0), uint16(4), []byte{0xff, 0xff})
	fuzzPlaces(f, "a-v6-plain", func(v *FS) []place { return contentsOf(v, 4096, ".", "web01") })
}

func FuzzTables(f *testing.F) {
	f.Add(uint8(0), uint16(4), []byte{0xff, 0xff})
	fuzzPlaces(f, "a-v5-plain", clusters)
}

func FuzzTables6(f *testing.F) {
	f.Add(uint8(0), uint16(4), []byte{0xff, 0xff})
	fuzzPlaces(f, "a-v6-plain", clusters)
}

func FuzzPointers(f *testing.F) {
	f.Add(uint8(0), uint16(4), []byte{0xff, 0xff})
	fuzzPlaces(f, "a-v5-plain", func(v *FS) []place {
		return pointerBlocks(v, 4096, "big/pb-small.bin", "big/pb-sparse.bin", "big/double-small.bin")
	})
}

func FuzzRDM(f *testing.F) {
	f.Add(uint8(0), uint16(4), []byte{0xff, 0xff})
	fuzzPlaces(f, "a-v5-plain", func(v *FS) []place {
		all := descriptorsOf(v, "rdm/data-rdm.vmdk", "rdm/data-rdmp.vmdk")
		for i := range all {
			all[i].at, all[i].length = all[i].at+1024, 1024
		}
		return all
	})
}
