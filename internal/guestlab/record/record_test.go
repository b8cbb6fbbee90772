// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package record

import (
	"errors"
	"testing"
)

// TestParse changes every byte of a record: none goes unnoticed.
func TestParse(t *testing.T) {
	b := make([]byte, Size)
	want := Record{Number: 4711, Disk: 1, Nanos: -5}
	Put(b, want)
	if got, err := Parse(b); err != nil || got != want {
		t.Fatalf("%+v, %v; want %+v", got, err, want)
	}
	for i := range b {
		b[i] ^= 0x40
		if r, err := Parse(b); !errors.Is(err, ErrBad) {
			t.Fatalf("byte %d changed: %+v, %v", i, r, err)
		}
		b[i] ^= 0x40
	}
	for _, n := range []int{0, 1, Size - 1} {
		if _, err := Parse(b[:n]); !errors.Is(err, ErrBad) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if _, err := Parse(make([]byte, Size)); !errors.Is(err, ErrBad) {
		t.Errorf("zeros: %v", err)
	}
}

func TestFileName(t *testing.T) {
	for number, want := range map[uint64]string{1: "000000", PerFile: "000000", PerFile + 1: "000001", 1000 * PerFile: "000999"} {
		if got := FileName(number); got != want {
			t.Errorf("record %d is in %s, want %s", number, got, want)
		}
	}
	for _, name := range []string{"", "0", "00001x", "0000001", "-00001", "+00001"} {
		if i, err := FileIndex(name); err == nil {
			t.Errorf("%q is file %d", name, i)
		}
	}
	if i, err := FileIndex("000042"); err != nil || i != 42 {
		t.Errorf("%d, %v", i, err)
	}
}
