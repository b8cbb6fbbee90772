// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi

import (
	"bytes"
	"context"
	"testing"
)

func FuzzSense(f *testing.F) {
	f.Add([]byte("\x70\x00\x05\x00\x00\x00\x00\x0a\x00\x00\x00\x00\x24\x00\x00\x00"))
	f.Add([]byte("\x72\x08\x00\x05\x00\x00\x00\x10\x00\x0a\x80\x00\x00\x00\x00\x00\x00\x00\x00\x07\x04\x02\x00\x80"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, ok := ParseSense(b); ok && s.String() == "" {
			t.Error("sense without words")
		}
	})
}

// answering is a port that gives the same bytes to all that is asked.
type answering []byte

func (a answering) Execute(_ context.Context, c *Command) (Result, error) {
	return Result{Moved: copy(c.In, a)}, nil
}
func (a answering) Reset(context.Context, Scope) error { return nil }
func (a answering) Close() error                       { return nil }

// FuzzAnswers has a device answer anything to all commands that have answers.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte("\x00\x83\x00\x14\x01\x03\x00\x10\x60\x01\x40\x5a\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c"))
	f.Add([]byte("\x00\x00\x00\x03\x00\x80\x83"))
	f.Add([]byte("\x00\x00\x00\x14\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x05\x01\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x01\x00\x00\x00\x38\x00\x00\x00\x00\x00\x00\x00\xa1\x00\x00\x00\x00\x01\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00\x14\x05\x00\x00\x10iqn.2005-06.x\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x6e\x00\x00\x05\x00\x03\x00\x01\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ctx := t.Context()
		d := NewDevice("fuzz", answering(b))
		if i, err := d.Identity(ctx); err == nil {
			for _, id := range i.IDs {
				if again, err := ParseID(string(id)); err != nil || again != id {
					t.Errorf("id %q is read as %q, %v", id, again, err)
				}
			}
		}
		if r, err := d.Reservation(ctx); err == nil && r.String() == "" {
			t.Error("reservation without words")
		}
		if all, err := d.LBAStatus(ctx, 5); err == nil {
			next := uint64(5)
			for _, r := range all {
				if r.LBA != next || r.Blocks == 0 || r.LBA+r.Blocks < r.LBA {
					t.Fatalf("ranges %+v", all)
				}
				next = r.LBA + r.Blocks
			}
		}
		if c, err := d.Capacity(ctx); err == nil && c.SizeBytes() <= 0 {
			t.Errorf("capacity %+v", c)
		}
		if _, err := d.Limits(ctx); err != nil {
			_ = err
		}
		for _, a := range parseAlerts(b) {
			if a < 1 || a > 64 {
				t.Errorf("alert %d", a)
			}
		}
	})
}

func FuzzTable(f *testing.F) {
	f.Add([]byte("# c\nvmhba1:2:0 naa.5000000000000002 # moved\nvmhba2:C1:T0:L0\tt10.V a\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		table, err := ReadTable(bytes.NewReader(b))
		if err != nil {
			return
		}
		var out bytes.Buffer
		if _, err := table.WriteTo(&out); err != nil {
			t.Fatal(err)
		}
		again, err := ReadTable(bytes.NewReader(out.Bytes()))
		if err != nil || len(again.entries) != len(table.entries) {
			t.Errorf("written as\n%s\n%v", &out, err)
		}
	})
}
