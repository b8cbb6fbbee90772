// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"strings"
	"testing"
)

// Whatever is written comes back, by every codec, number of workers and order.
func TestRoundTripStream(t *testing.T) {
	const mib = 1 << 20
	sizes := map[string][]byte{
		"one sector":            diskWith(512, 1, 0),
		"no whole sector":       diskWith(1000, 2, 0),
		"not whole grains":      diskWith(mib+512, 3, 0, 15, 16),
		"one segment":           diskWith(mib, 4, 3, 4, 9),
		"many segments":         diskWith(7*mib+512, 5, 0, 20, 21, 22, 23, 80, 112),
		"all zero":              make([]byte, 3*mib),
		"all data":              diskWith(mib, 6, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
		"zeros, then one grain": diskWith(5*mib, 7, 79),
	}
	for _, c := range codecNames() {
		for name, b := range sizes {
			d := []Disk{memDisk("disk", b), memDisk("b", diskWith(mib, 9, 2))}
			f := []File{memFile("vm.log", []byte(strings.Repeat("line\n", 200))), memFile("empty", nil)}
			out, _ := writeStream(t, d, f, testOptions(c))
			for _, o := range []ReadOptions{{Workers: 1}, {Workers: 4}, {Workers: 2, MemoryBytes: 1}} {
				for _, ordered := range []bool{false, true} {
					s := &memSink{ordered: ordered}
					if _, err := Read(t.Context(), bytes.NewReader(out), s, o); err != nil {
						t.Fatalf("%s, %s, %+v: %v", c, name, o, err)
					}
					if got := s.disks[0].b; !bytes.Equal(got[:len(b)], b) {
						t.Fatalf("%s, %s, %+v: content differs", c, name, o)
					}
					if got := s.files["vm.log"].String(); got != strings.Repeat("line\n", 200) || s.files["empty"] == nil {
						t.Fatalf("%s, %s: files differ", c, name)
					}
				}
			}
		}
	}
}
