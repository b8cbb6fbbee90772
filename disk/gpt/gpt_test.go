// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package gpt

import (
	"bytes"
	"errors"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
)

const (
	diskBytes  = 64 << 20
	tableBytes = 34 * 512 // of 128 entries
)

// made returns the beginning of a disk that sfdisk has partitioned.
func made(tb testing.TB) []byte {
	tb.Helper()
	name := filepath.Join(tb.TempDir(), "disk.img")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Truncate(name, diskBytes); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.CommandContext(tb.Context(), testenv.Tool(tb, "sfdisk"), "-q", name)
	cmd.Stdin = strings.NewReader("label: gpt\n1: start=2048, size=8192, type=AA31E02A-400F-11DB-9590-000C2911D1B8\n3: start=20480, size=100\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("sfdisk: %v: %s", err, out)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	return b[:tableBytes]
}

// sign puts the checksums of the entries and of the header into a table.
func sign(b []byte) []byte {
	h := b[512:]
	le.PutUint32(h[88:], crc32.ChecksumIEEE(b[1024:]))
	clear(h[16:20])
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:headerLen]))
	return b
}

// wide moves a table to where a disk with sectors of 4096 bytes has it.
func wide(b []byte) []byte {
	w := make([]byte, 2*4096+len(b)-1024)
	copy(w[4096:], b[512:1024])
	copy(w[8192:], b[1024:])
	return w
}

// TestRead reads what sfdisk has written.
func TestRead(t *testing.T) {
	b := made(t)
	for _, sector := range []int64{512, 4096} {
		if sector == 4096 {
			b = wide(b)
		}
		all, err := Read(bytes.NewReader(b), 8*diskBytes, sector)
		if err != nil || len(all) != 2 {
			t.Fatalf("%+v, %v", all, err)
		}
		for i, want := range []Partition{{Number: 1, OffsetBytes: 2048 * sector, SizeBytes: 8192 * sector}, {Number: 3, OffsetBytes: 20480 * sector, SizeBytes: 100 * sector}} {
			if all[i].Type[0] != []byte{0x2A, 0xAF}[i] {
				t.Errorf("type %x", all[i].Type)
			}
			if all[i].Type = [16]byte{}; all[i] != want {
				t.Errorf("%+v, want %+v", all[i], want)
			}
		}
		// Of a disk that was cut off, the first partition is sound.
		if all, err = Read(bytes.NewReader(b), 20000*sector, sector); err != nil || all[0].Err != nil || !errors.Is(all[1].Err, disk.ErrCorrupt) {
			t.Errorf("%+v, %v", all, err)
		}
	}
}

// TestReadDamaged has tables with one thing wrong, with good checksums where these are not
// meant.
func TestReadDamaged(t *testing.T) {
	good := made(t)
	for name, c := range map[string]struct {
		at   int
		b    string
		sign bool
		want error
	}{
		"no signature":        {512, "EFI PARK", true, ErrNone},
		"length of header":    {512 + 12, "\x5b", true, disk.ErrCorrupt},
		"longer than sector":  {512 + 12, "\x00\x03", true, disk.ErrCorrupt},
		"checksum of header":  {512 + 16, "\x00\x00\x00\x00", false, disk.ErrCorrupt},
		"start of entries":    {512 + 72, "\x01", true, disk.ErrCorrupt},
		"entries behind end":  {512 + 72, "\xff\xff\xff\xff\xff\xff\xff\xff", true, disk.ErrCorrupt},
		"entries cut off":     {512 + 72, "\xff\xff\x01", true, disk.ErrTruncated},
		"no entries":          {512 + 80, "\x00", true, disk.ErrCorrupt},
		"many entries":        {512 + 80, "\x01\x04", true, disk.ErrCorrupt},
		"small entries":       {512 + 84, "\x7f", true, disk.ErrCorrupt},
		"large entries":       {512 + 84, "\x01\x10", true, disk.ErrCorrupt},
		"checksum of entries": {1024 + 50, "\xff", false, disk.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(good)
			copy(b[c.at:], c.b)
			if c.sign {
				sign(b)
			}
			if all, err := Read(bytes.NewReader(b), diskBytes, 512); !errors.Is(err, c.want) || all != nil {
				t.Errorf("%+v, %v", all, err)
			}
		})
	}
	for _, size := range []int64{0, 512, 1023} {
		if _, err := Read(bytes.NewReader(nil), size, 512); !errors.Is(err, ErrNone) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	for name, c := range map[string]string{"ends before it begins": "\xff\x07", "behind the disk": "\xff\xff\xff\xff\xff\xff\xff\xff"} {
		b := bytes.Clone(good)
		copy(b[1024+40:], c)
		if all, err := Read(bytes.NewReader(sign(b)), diskBytes, 512); err != nil || len(all) != 2 || !errors.Is(all[0].Err, disk.ErrCorrupt) || all[1].Err != nil {
			t.Errorf("%s: %+v, %v", name, all, err)
		}
	}
}

// FuzzRead reads anything, with checksums made good.
func FuzzRead(f *testing.F) {
	if _, err := exec.LookPath("sfdisk"); err == nil {
		b := made(f)
		f.Add(b[512:1024], b[1024:2048], int64(diskBytes))
	}
	f.Add([]byte("EFI PART"), []byte{1}, int64(4096))
	f.Fuzz(func(t *testing.T, header, entries []byte, size int64) {
		b := make([]byte, tableBytes)
		copy(b[512:1024], header)
		copy(b[1024:], entries)
		size = max(size, 0) % (1 << 50)
		all, err := Read(bytes.NewReader(sign(b)), size, 512)
		if err != nil && all != nil {
			t.Error("partitions together with an error")
		}
		for _, p := range all {
			if p.Err == nil && (p.OffsetBytes < 1024 || p.SizeBytes <= 0 || p.OffsetBytes+p.SizeBytes > size) {
				t.Errorf("%+v on a disk of %d bytes", p, size)
			}
		}
	})
}
