// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import "github.com/vmstream/vmstream/disk"

// StoredBytes returns what a stream of the source, without a codec, has of disks
// and files at most, in bytes: what the disks have allocated, or have changed since the
// parent if that can be told without reading. No data is read.
func (s *Source) StoredBytes() (int64, error) {
	var n int64
	for i := range s.Files {
		n += s.Files[i].Record.SizeBytes
	}
	for i := range s.Disks {
		im := s.Disks[i].Image
		runs := im.Runs
		if c := s.Disks[i].Changes; c != nil {
			runs = c.Runs
		}
		for r, err := range runs(0, im.Size()) {
			if err != nil {
				return 0, err
			}
			if r.Kind == disk.Data {
				n += r.Length
			}
		}
	}
	return n, nil
}
