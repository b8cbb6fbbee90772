// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import "testing"

func TestGeometryFor(t *testing.T) {
	tests := []struct {
		adapter string
		sectors int64
		want    Geometry
	}{
		// Written by VMware products or printed in their documentation.
		{"ide", 10485760, Geometry{10402, 16, 63}},
		{"ide", 16777216, Geometry{16383, 16, 63}},
		{"lsilogic", 4096, Geometry{2, 64, 32}},
		{"lsilogic", 268435456, Geometry{16709, 255, 63}},
		{"lsilogic", 83886080, Geometry{5221, 255, 63}},
		{"lsilogic", 33554432, Geometry{2088, 255, 63}},
		// The edges of the BusLogic rule.
		{"buslogic", 2097151, Geometry{1023, 64, 32}},
		{"buslogic", 2097152, Geometry{512, 128, 32}},
		{"buslogic", 4194303, Geometry{1023, 128, 32}},
		{"buslogic", 4194304, Geometry{261, 255, 63}},
		{"legacyESX", 2097152, Geometry{512, 128, 32}},
		{"lsisas1068", 4096, Geometry{2, 64, 32}},
		{"pvscsi", 4194304, Geometry{261, 255, 63}},
		{"nvme", 4194304, Geometry{261, 255, 63}},
		{"", 4194304, Geometry{261, 255, 63}},
		// Without case; the cap of IDE.
		{"IDE", 16383 * 1008, Geometry{16383, 16, 63}},
		{"ide", 16383*1008 - 1, Geometry{16382, 16, 63}},
		{"sata", 1 << 37, Geometry{16383, 16, 63}},
		// Extremes: never zero cylinders, never a wrap.
		{"ide", 1, Geometry{1, 16, 63}},
		{"buslogic", 0, Geometry{1, 64, 32}},
		{"buslogic", -1, Geometry{1, 64, 32}},
		{"buslogic", 1 << 37, Geometry{8555179, 255, 63}},
		{"buslogic", 1<<63 - 1, Geometry{1<<32 - 1, 255, 63}},
	}
	for _, tt := range tests {
		if got := GeometryFor(tt.adapter, tt.sectors); got != tt.want {
			t.Errorf("GeometryFor(%q, %d) = %v, want %v", tt.adapter, tt.sectors, got, tt.want)
		}
	}
}

// mbr returns a master boot record with pairs of type and end-head.
func mbr(entries ...[2]byte) []byte {
	b := make([]byte, 512)
	b[510], b[511] = 0x55, 0xaa
	for i, e := range entries {
		b[446+16*i+4], b[446+16*i+5] = e[0], e[1]
	}
	return b
}

func TestMBRGeometry(t *testing.T) {
	none := Geometry{}
	tests := []struct {
		name string
		b    []byte
		want Geometry
	}{
		{"64/32", mbr([2]byte{7, 63}), Geometry{0, 64, 32}},
		{"128/32", mbr([2]byte{7, 127}), Geometry{0, 128, 32}},
		{"255/63", mbr([2]byte{0x83, 254}), Geometry{0, 255, 63}},
		{"ide", mbr([2]byte{0x83, 15}), Geometry{0, 16, 63}},
		{"first that matches", mbr([2]byte{0x83, 9}, [2]byte{0, 63}, [2]byte{0x83, 127}, [2]byte{0x83, 254}), Geometry{0, 128, 32}},
		{"no boundary", mbr([2]byte{0x83, 9}), none},
		{"gpt", mbr([2]byte{0xee, 254}), none},
		{"empty table", mbr(), none},
		{"short", mbr([2]byte{7, 63})[:511], none},
		{"nil", nil, none},
		{"no signature", make([]byte, 512), none},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := MBRGeometry(tt.b)
			if got != tt.want || ok != !tt.want.IsZero() {
				t.Errorf("MBRGeometry = %v, %v; want %v", got, ok, tt.want)
			}
		})
	}
}

func FuzzMBRGeometry(f *testing.F) {
	f.Add(mbr([2]byte{7, 63}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if g, ok := MBRGeometry(b); ok == g.IsZero() {
			t.Errorf("geometry %v with %v", g, ok)
		}
	})
}

func TestGeometryString(t *testing.T) {
	if s := (Geometry{1023, 64, 32}).String(); s != "1023/64/32" {
		t.Error(s)
	}
}
