// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/stream"
)

// seriesOf joins streams of a disk at several points in time. Where whole says so
// the stream, though an increment, has all of the disk.
func seriesOf(t *testing.T, points [][]byte, whole ...int) *bytes.Buffer {
	t.Helper()
	var out bytes.Buffer
	var last *stream.Result
	path := filepath.Join(t.TempDir(), "d.raw")
	for i, b := range points {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		src, err := OpenSource(t.Context(), path, SourceOptions{PadShort: true})
		if err != nil {
			t.Fatal(err)
		}
		src.Track(stream.MinTrackBytes)
		o := streamOptions("none")
		if o.ID = fmt.Sprintf("b%d", i); i > 0 {
			o.Parent = last.Opening
			if len(whole) == 0 || whole[0] != i {
				if err := src.Since(last.Index, SinceOptions{TrackBytes: TrackParent}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if last, err = Backup(t.Context(), &out, src, o); err != nil {
			t.Fatal(err)
		}
		if err := src.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return &out
}

// A series goes over what a device has: what becomes zero is zero there, also on
// one that is assumed to be, and what is behind the disk stays.
func TestSeriesDevice(t *testing.T) {
	const devSize, size = 4 << 20, 3<<20 + 512
	points := [][]byte{bytes.Repeat([]byte{1}, size), bytes.Repeat([]byte{1}, size), make([]byte, size)}
	clear(points[1][100_000:1_500_000])
	copy(points[1][70<<10:], "changed")
	copy(points[2][2<<20:], "all that is left")
	for _, zeroed := range []bool{false, true} {
		fill := byte(0xee)
		if zeroed {
			fill = 0
		}
		for n := 2; n <= 3; n++ {
			for _, whole := range []int{0, 1, 2} {
				dev := testenv.LoopDevice(t, devSize, fill)
				_, err := Restore(t.Context(), seriesOf(t, points[:n], whole), RestoreOptions{To: dev, AssumeZeroed: zeroed})
				if err != nil {
					t.Fatal(err)
				}
				f, err := os.Open(dev)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(f)
				_ = f.Close() // only read
				if err != nil {
					t.Fatal(err)
				}
				want := append(bytes.Clone(points[n-1]), bytes.Repeat([]byte{fill}, devSize-size)...)
				if !bytes.Equal(got, want) {
					t.Errorf("zeroed %v, %d streams, %d is whole: the device has another disk (zeros: %v)", zeroed, n, whole, disk.IsZero(got))
				}
			}
		}
	}
}
