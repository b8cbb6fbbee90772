// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"testing"
)

// A stream inside a file, behind other bytes, is read like one from a pipe.
func TestReadFile(t *testing.T) {
	content := diskWith(5<<20, 1, 0, 1, 17, 40, 79)
	for _, c := range codecNames() {
		o := testOptions(c)
		b, want := writeStream(t, []Disk{memDisk("disk", content)}, []File{memFile("x.log", []byte("log"))}, o)
		for _, offset := range []int64{0, 1, 4096} {
			for _, ordered := range []bool{false, true} {
				in := bytes.NewReader(append(make([]byte, offset), b...))
				s := &memSink{ordered: ordered}
				n := new(Counters)
				got, err := Read(t.Context(), nil, s, ReadOptions{Counters: n, File: &FileInput{R: in, Offset: offset}})
				if err != nil {
					t.Fatalf("%s at %d: %v", c, offset, err)
				}
				if !bytes.Equal(s.disks[0].b[:len(content)], content) || s.files["x.log"].String() != "log" {
					t.Errorf("%s at %d, ordered %v: the content is not what was written", c, offset, ordered)
				}
				if got.OutBytes != want.OutBytes || n.Tar.Load() != want.TarBytes {
					t.Errorf("%s at %d: %d bytes and %d of tar, want %d and %d", c, offset, got.OutBytes, n.Tar.Load(), want.OutBytes, want.TarBytes)
				}
			}
		}
	}
}
