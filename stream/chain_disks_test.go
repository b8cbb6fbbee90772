// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream/codec"
)

// diskPlan is what the streams of a chain have of their disks: a string for each
// stream with a letter for each disk, in capitals if it is whole though the
// parent has it, too.
type diskPlan []string

// disksHistory is a chain of several disks.
type disksHistory struct {
	streams [][]byte
	results []*Result
	points  []map[string][]byte
}

const planDiskBytes = 1<<20 + 512

// add writes the next stream of a chain; parent changes what it takes for the
// opening record of its parent.
func (h *disksHistory) add(tb testing.TB, plan string, parent func(*Opening)) {
	tb.Helper()
	level := len(h.streams)
	o := testOptions(codec.None)
	o.ID = fmt.Sprintf("backup-%d", level)
	point := map[string][]byte{}
	if level > 0 {
		p := *h.results[level-1].Opening
		p.Disks = slices.Clone(p.Disks)
		if parent != nil {
			parent(&p)
		}
		o.Parent = &p
	}
	var disks []Disk
	for _, letter := range plan {
		key := string(letter | 0x20)
		now := diskWith(planDiskBytes, uint64(level*100)+uint64(letter|0x20), level, 8)
		if level%2 == 1 {
			clear(now[8*65536 : 9*65536]) // what is zero has to get through
		}
		d := memDisk(key, now)
		if o.Parent != nil && letter >= 'a' && slices.ContainsFunc(o.Parent.Disks, func(d DiskRecord) bool { return d.Key == key }) {
			d.Changes = &diff{was: h.lastOf(key), is: now, unit: 4096}
		}
		disks, point[key] = append(disks, d), now
	}
	b, res := writeStream(tb, disks, []File{memFile("x.log", fmt.Appendf(nil, "log %d", level))}, o)
	h.streams, h.results, h.points = append(h.streams, b), append(h.results, res), append(h.points, point)
}

func (h *disksHistory) lastOf(key string) []byte {
	for _, p := range slices.Backward(h.points) {
		if b := p[key]; b != nil {
			return b
		}
	}
	return nil
}

func makeDisks(tb testing.TB, plan ...string) *disksHistory {
	tb.Helper()
	h := &disksHistory{}
	for _, p := range plan {
		h.add(tb, p, nil)
	}
	return h
}

func (h *disksHistory) readers() []io.Reader {
	var ins []io.Reader
	for _, b := range h.streams {
		ins = append(ins, bytes.NewReader(b))
	}
	return ins
}

func (s *memSink) content() map[string][]byte {
	all := map[string][]byte{}
	for i := range s.opening.Disks {
		all[s.opening.Disks[i].Key] = s.disks[i].b[:s.opening.Disks[i].CapacityBytes]
	}
	return all
}

func sameDisks(a, b map[string][]byte) bool { return maps.EqualFunc(a, b, bytes.Equal) }

// Disks come and go in a chain, and may be whole anywhere: the VM is as the last
// stream has it, side by side, one behind the other and merged.
func TestChainDisks(t *testing.T) {
	for _, plan := range []diskPlan{
		{"abc", "abc", "abc"},
		{"abc", "ac", "ac"},           // one is removed
		{"abc", "ac", "abc"},          // and back: it is whole
		{"ab", "abc", "abc", "abc"},   // one is new
		{"ac", "abc", "abc"},          // in the middle
		{"abc", "aBc", "abc"},         // whole, and increments on that
		{"abc", "ABC", "abc", "abC"},  // all of them
		{"abc", "b", "abc", "ABc"},    // two are back
		{"ab", "ab", "ab", "b", "ab"}, // twice
		{"ab", "cb", "cbd", "cd", "d"},
		{"a", "b", "a", "b"}, // the chain of a disk is shorter than that of the VM
	} {
		h := makeDisks(t, plan...)
		want := h.points[len(plan)-1]
		side := &memSink{ordered: true}
		if _, err := ReadChain(t.Context(), h.readers(), side, ReadOptions{Workers: 2}); err != nil {
			t.Fatalf("%v: %v", plan, err)
		}
		joined, _, err := readSeries(t, bytes.Join(h.streams, nil), ReadOptions{Workers: 2})
		if err != nil {
			t.Fatalf("%v: %v", plan, err)
		}
		var out bytes.Buffer
		if _, err := Merge(t.Context(), &out, h.readers(), Options{Tool: "test"}); err != nil {
			t.Fatalf("%v: %v", plan, err)
		}
		merged, _, err := readStream(out.Bytes(), ReadOptions{})
		if err != nil {
			t.Fatalf("%v: %v", plan, err)
		}
		if !sameDisks(side.content(), want) || !sameDisks(joined.content(), want) || !sameDisks(merged.content(), want) {
			t.Errorf("%v: the disks are not those of the last backup", plan)
		}
	}
}

// What refuses a chain is told by the class of the error, before the sink gets
// anything of what does not fit.
func TestChainDisksRefused(t *testing.T) {
	find := func(o *Opening, key string) *DiskRecord {
		return &o.Disks[slices.IndexFunc(o.Disks, func(d DiskRecord) bool { return d.Key == key })]
	}
	for name, c := range map[string]struct {
		plan   diskPlan
		last   string
		parent func(h *disksHistory, o *Opening)
		want   error
		series error // nil: a series of it is read
	}{
		"another content id": {
			diskPlan{"ab", "ab"}, "ab", func(_ *disksHistory, o *Opening) { find(o, "b").CID = "12345678" }, disk.ErrMismatch, disk.ErrMismatch,
		},
		"of an older one": {
			diskPlan{"ab", "ab"}, "ab", func(h *disksHistory, o *Opening) { find(o, "b").CID = find(h.results[0].Opening, "b").CID }, disk.ErrMismatch, disk.ErrMismatch,
		},
		"of another disk": {
			diskPlan{"ab", "ab"}, "ab", func(_ *disksHistory, o *Opening) { o.Disks[0].CID, o.Disks[1].CID = o.Disks[1].CID, o.Disks[0].CID }, disk.ErrMismatch, disk.ErrMismatch,
		},
		"missing in the one before": {
			diskPlan{"abc", "ac"}, "abc", func(h *disksHistory, o *Opening) { o.Disks = h.results[0].Opening.Disks }, disk.ErrMismatch, disk.ErrMismatch,
		},
		"another id": {
			diskPlan{"ab", "ab"}, "ab", func(_ *disksHistory, o *Opening) { o.ID = "another" }, disk.ErrMismatch, disk.ErrMismatch,
		},
		"a level too high": {
			diskPlan{"ab", "ab"}, "ab", func(_ *disksHistory, o *Opening) { o.Depth++ }, disk.ErrMismatch, disk.ErrMismatch,
		},
		"a level too low": {
			diskPlan{"ab", "ab"}, "ab", func(_ *disksHistory, o *Opening) { o.Depth-- }, disk.ErrMismatch, disk.ErrMismatch,
		},
		"another order": {
			diskPlan{"abc", "abc"}, "cab", func(_ *disksHistory, o *Opening) { o.Disks = []DiskRecord{o.Disks[2], o.Disks[0], o.Disks[1]} }, disk.ErrUnsupported, nil,
		},
	} {
		h := makeDisks(t, c.plan...)
		h.add(t, c.last, func(o *Opening) { c.parent(h, o) })
		side := &memSink{ordered: true}
		if _, err := ReadChain(t.Context(), h.readers(), side, ReadOptions{Workers: 2}); !errors.Is(err, c.want) || errors.Is(err, ErrTarget) || side.opening != nil {
			t.Errorf("%s: side by side: %v, the sink has begun: %v", name, err, side.opening != nil)
		}
		var out bytes.Buffer
		if _, err := Merge(t.Context(), &out, h.readers(), Options{Tool: "test"}); !errors.Is(err, c.want) {
			t.Errorf("%s: merged: %v", name, err)
		}
		if _, _, err := readStream(out.Bytes(), ReadOptions{}); err == nil {
			t.Errorf("%s: what the merge has written is a backup", name)
		}
		joined, _, err := readSeries(t, bytes.Join(h.streams, nil), ReadOptions{Workers: 2})
		last := len(h.points) - 1
		if c.series == nil {
			if err != nil || !sameDisks(joined.content(), h.points[last]) {
				t.Errorf("%s: one behind the other: %v", name, err)
			}
		} else if !errors.Is(err, c.series) || errors.Is(err, ErrTarget) || joined.nexts != last-1 || !sameDisks(joined.content(), h.points[last-1]) {
			t.Errorf("%s: one behind the other: %v, the sink got %d", name, err, joined.nexts)
		}
	}
}

// A writer makes no increment that could not be read side by side, or told from
// its parent.
func TestIncrementRefused(t *testing.T) {
	h := makeDisks(t, "ab")
	parent := h.results[0].Opening
	changed := func(key string) Disk {
		d := memDisk(key, h.points[0][key])
		d.Changes = &diff{was: h.points[0][key], is: h.points[0][key], unit: 4096}
		return d
	}
	write := func(id string, disks ...Disk) error {
		o := testOptions(codec.None)
		o.ID, o.Parent = id, parent
		var out bytes.Buffer
		_, err := Write(t.Context(), &out, disks, nil, o)
		if err != nil && out.Len() > 0 {
			t.Errorf("%d bytes are written of what is refused", out.Len())
		}
		return err
	}
	if err := write("inc", changed("a"), changed("b")); err != nil {
		t.Error(err)
	}
	larger := memDisk("a", make([]byte, planDiskBytes+512))
	larger.Changes = larger.Image
	stranger := changed("a")
	stranger.Record.Key, stranger.Record.File = "c", "c.vmdk"
	blocks := changed("a")
	blocks.Changes, blocks.Compare = nil, true
	for name, err := range map[string]error{
		"another order": write("inc", changed("b"), changed("a")), "the parent's id": write(parent.ID, changed("a")),
		"another capacity": write("inc", larger), "not in the parent": write("inc", stranger),
	} {
		if !errors.Is(err, disk.ErrMismatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
	parent.Name, parent.ParentID, parent.Depth = fmt.Sprintf("vm+%d", MaxDepth-1), "other", MaxDepth-1
	if err := write("inc", changed("a")); err != nil {
		t.Errorf("the last level: %v", err)
	}
	parent.Name, parent.Depth = fmt.Sprintf("vm+%d", MaxDepth), MaxDepth
	if err := write("inc", changed("a")); !errors.Is(err, disk.ErrUnsupported) {
		t.Errorf("one level too many: %v", err)
	}
	parent.Name, parent.ParentID, parent.Depth = "vm", "", 0
	if err := write("inc", blocks); !errors.Is(err, disk.ErrUnsupported) {
		t.Errorf("without digests: %v", err)
	}
}

// A merge that fails while extents are being handed over does not read memory
// that has been given back.
func TestMergeFails(t *testing.T) {
	h := makeHistory(t, 11, 3<<20, 2, 4096, codec.None)
	noise := make([]byte, 3<<20)
	for i, r := 0, uint64(1); i < len(noise); i, r = i+1, r*6364136223846793005+1442695040888963407 {
		noise[i] = byte(r >> 56)
	}
	o := testOptions(codec.None)
	o.ID = "backup-0"
	full, _ := writeStream(t, []Disk{memDisk("disk", noise)}, nil, o)
	for i := range 60 {
		ins := h.readers(3)
		ins[0] = bytes.NewReader(full)
		ins[1+i%2] = bytes.NewReader(append(bytes.Clone(h.streams[1+i%2]), 0))
		if _, err := Merge(t.Context(), io.Discard, ins, Options{Tool: "test"}); !errors.Is(err, disk.ErrCorrupt) {
			t.Fatal(err)
		}
	}
}
