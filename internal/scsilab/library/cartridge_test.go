// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package library

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestCartridgeKept has a cartridge come back from its store up to the last flush, and
// up to the last whole record if the store was cut off.
func TestCartridgeKept(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "tape"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 1 << 20
	if err := f.Truncate(2 * size); err != nil {
		t.Fatal(err)
	}
	open := func() *Cartridge {
		c, err := NewCartridge("VOL001", size, size/8, Region{Store: f, At: size / 2, Bytes: size})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	blocks := [][]byte{[]byte("first"), bytes.Repeat([]byte("x"), 1000), nil, []byte("after")}
	write := func(c *Cartridge, from int) {
		c.truncate(from)
		for _, b := range blocks[from:] {
			c.append(b)
		}
	}
	c := open()
	write(c, 0)
	if n := len(open().records); n != 0 {
		t.Errorf("%d records are kept that were never flushed", n)
	}
	if err := c.flush(false); err != nil {
		t.Fatal(err)
	}
	write(c, 2) // once more, shorter by a flush
	c.truncate(3)
	if err := c.flush(false); err != nil {
		t.Fatal(err)
	}
	kept := open()
	if len(kept.records) != 3 || kept.used != c.used || kept.end != c.end {
		t.Fatalf("%d records of %d bytes up to %d, they were 3 of %d up to %d", len(kept.records), kept.used, kept.end, c.used, c.end)
	}
	for i, r := range kept.records {
		if !bytes.Equal(r.data, blocks[i]) || (r.data == nil) != (blocks[i] == nil) {
			t.Errorf("record %d is %q", i, r.data)
		}
	}
	if _, err := f.WriteAt([]byte{1}, size/2+c.records[1].at+4+1000); err != nil { // the length behind the second block
		t.Fatal(err)
	}
	if n := len(open().records); n != 1 {
		t.Errorf("%d records are there, one is whole", n)
	}
}
