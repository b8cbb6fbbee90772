// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"bytes"
	"io/fs"
	"testing"

	"github.com/vmstream/vmstream/disk"
)

// listener is a device that keeps the bytes of what it is told.
type listener struct {
	*image
	told *bytes.Buffer
}

func (l listener) Prefetch(off, n int64) {
	p := make([]byte, n)
	if err := disk.ReadFull(l.image, p, off); err != nil {
		*l.told = bytes.Buffer{}
		return
	}
	l.told.Write(p)
}

// The devices are told of what the data of a file is, and of nothing else.
func TestPrefetch(t *testing.T) {
	files := 0
	for _, name := range volumes(t) {
		devices, told := devicesOf(t, loadExpected(t, name)), new(bytes.Buffer)
		for i := range devices {
			devices[i].R = listener{image: devices[i].R.(*image), told: told}
		}
		f, err := Open(devices, Options{})
		if err != nil {
			t.Fatal(err)
		}
		err = fs.WalkDir(f, ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			file, err := f.OpenFile(name)
			if err != nil || file.Readable() != nil || file.Size() > 64<<20 {
				return nil //nolint:nilerr // not one to be read
			}
			off, n := file.Size()/7, file.Size()/2
			var want []byte
			for r, err := range file.Runs(off, n) {
				if err != nil {
					return err
				}
				p := make([]byte, r.Length)
				if r.Kind == disk.Data {
					if err := disk.ReadFull(file, p, r.Offset); err != nil {
						return err
					}
					want = append(want, p...)
				}
			}
			told.Reset()
			file.Prefetch(off, n)
			if !bytes.Equal(told.Bytes(), want) {
				t.Errorf("%s: told of %d bytes, which are not the %d of the file", name, told.Len(), len(want))
			}
			if len(want) > 0 {
				files++
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if files < 10 {
		t.Errorf("%d files with data", files)
	}
}
