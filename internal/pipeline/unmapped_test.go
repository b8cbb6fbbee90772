// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/scsi"
	"github.com/vmstream/vmstream/scsi/scsitest"
)

// thinFile returns a file of as many bytes as a LUN has, which tells what the LUN does.
func thinFile(t *testing.T, l *scsitest.LUN, warn func(string)) *unmappedFile {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 1024*512), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := disk.OpenRaw(path)
	if err != nil {
		t.Fatal(err)
	}
	thin, err := scsi.NewThin(t.Context(), l.Device("host"), scsi.Place{SizeBytes: f.Size()})
	if err != nil {
		t.Fatal(err)
	}
	return &unmappedFile{RawFile: f, ranges: thin.Ranges, stop: thin.Close, warn: warn}
}

func dataRun(off, n int64) disk.Run { return disk.Run{Offset: off, Length: n, Kind: disk.Data} }
func zeroRun(off, n int64) disk.Run { return disk.Run{Offset: off, Length: n, Kind: disk.Zero} }

func runsOf(t *testing.T, im disk.Image, off, n int64) []disk.Run {
	t.Helper()
	var all []disk.Run
	for r, err := range im.Runs(off, n) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// TestUnmapped has what holds nothing be zeros, and all be data once the LUN does not
// tell any more.
func TestUnmapped(t *testing.T) {
	l := scsitest.New(scsitest.Options{Thin: true, Zero: true, Ranges: 1})
	l.Map(100, 50)
	var said []string
	f := thinFile(t, l, func(s string) { said = append(said, s) })
	want := []disk.Run{zeroRun(0, 51200), dataRun(51200, 25600), zeroRun(76800, 447488)}
	if got := runsOf(t, f, 0, 1<<62); !slices.Equal(got, want) {
		t.Errorf("runs %v", got)
	}
	if got, want := runsOf(t, f, 60000, 20000), []disk.Run{dataRun(60000, 16800), zeroRun(76800, 3200)}; !slices.Equal(got, want) {
		t.Errorf("runs %v", got)
	}
	if got := runsOf(t, f, f.Size(), 1); got != nil {
		t.Errorf("behind the end: %v", got)
	}
	l.Inject(&scsitest.Fault{Opcode: 0x9e, Err: errors.New("cable")})
	// The last answer is still known.
	if got, want := runsOf(t, f, 76800-512, 1<<62), []disk.Run{dataRun(76288, f.Size()-76288)}; !slices.Equal(got, want) {
		t.Errorf("without answers: %v, want %v", got, want)
	}
	if got := runsOf(t, f, 0, 512); !slices.Equal(got, []disk.Run{dataRun(0, 512)}) {
		t.Errorf("after that: %v", got)
	}
	if len(said) != 1 || !strings.Contains(said[0], "is read as a whole: lun@host: GET LBA STATUS: cable") {
		t.Errorf("warned %q", said)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
