// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vm/nbd"
	"github.com/vmstream/vmstream/vm/snapshot"
)

// A backup leaves a bitmap that records what changes from its moment on, and
// stops the one before it. So what changed since backup P is the union of the
// bitmaps from P's on, whatever became of the backups between.
const (
	bitmapPrefix = "vmstream-" // then a number and the backup's id
	keepBitmaps  = 3
)

// bitmap is one of ours.
type bitmap struct {
	dirtyInfo
	sequence uint64
	backupID string
}

func bitmapName(sequence uint64, backupID string) string {
	return fmt.Sprintf("%s%06d-%s", bitmapPrefix, sequence, backupID)
}

// ourBitmaps returns those of our names, oldest first.
func ourBitmaps(list []dirtyInfo) []bitmap {
	var ours []bitmap
	for _, b := range list {
		rest, ok := strings.CutPrefix(b.Name, bitmapPrefix)
		digits, id, cut := strings.Cut(rest, "-")
		n, err := strconv.ParseUint(digits, 10, 63)
		if ok && cut && err == nil && id != "" && bitmapName(n, id) == b.Name {
			ours = append(ours, bitmap{b, n, id})
		}
	}
	slices.SortFunc(ours, func(a, b bitmap) int {
		if a.sequence != b.sequence {
			if a.sequence < b.sequence {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return ours
}

// nameBitmap gives out the name of a disk's new bitmap and notes which ones it
// stops.
func (d *diskRecord) nameBitmap(have []bitmap, backupID string) {
	next := uint64(1)
	for _, b := range have {
		next = b.sequence + 1 // the last is the highest
		if b.Recording && !b.Inconsistent {
			d.Was = append(d.Was, b.Name)
		}
	}
	d.Bitmap = bitmapName(next, backupID)
}

// bitmapActions are the part of the transaction that begins the new bitmap. They
// come behind what fixes the moment: that action holds the guest's writes back
// until the transaction ends.
func (d *diskRecord) bitmapActions(persistent bool) []args {
	if d.Bitmap == "" {
		return nil
	}
	add := args{"node": d.Node, "name": d.Bitmap}
	if persistent {
		add["persistent"] = true
	}
	actions := []args{action("block-dirty-bitmap-add", add)}
	for _, name := range d.Was {
		actions = append(actions, action("block-dirty-bitmap-disable", args{"node": d.Node, "name": name}))
	}
	return actions
}

// since returns the bitmaps whose union is what has changed since a backup, or
// why there are none. They are those of the moment before the new one.
func (d *guestDisk) since(backupID string) ([]string, error) {
	i := slices.IndexFunc(d.bitmaps, func(b bitmap) bool { return b.backupID == backupID })
	if i < 0 {
		why := "bitmaps of " + d.driver + " disks end with QEMU's process; the machine was restarted, or the backup is too old"
		if d.persistent {
			why = fmt.Sprintf("the last %d are kept, unless QEMU is killed", keepBitmaps)
		}
		return nil, fmt.Errorf("%s: QEMU has no dirty bitmap of backup %s (%s): %w; a full backup is needed", d.key, backupID, why, disk.ErrMismatch)
	}
	var names []string
	for _, b := range d.bitmaps[i:] {
		switch {
		case b.Inconsistent:
			return nil, fmt.Errorf("%s: the dirty bitmap %s is inconsistent, because QEMU was killed: %w; a full backup is needed", d.key, b.Name, disk.ErrMismatch)
		case b.Busy:
			return nil, inUse("%s: the dirty bitmap %s is used by something else", d.key, b.Name)
		}
		names = append(names, b.Name)
	}
	if last := d.bitmaps[len(d.bitmaps)-1]; !last.Recording { // somebody has meddled
		return nil, fmt.Errorf("%s: the dirty bitmap %s does not record, so it lacks what has changed lately: %w; a full backup is needed", d.key, last.Name, disk.ErrMismatch)
	}
	return names, nil
}

// current returns our bitmaps of a node.
func (s *session) current(ctx context.Context, node string) ([]bitmap, error) {
	var list []struct {
		Name    string      `json:"node-name"`
		Bitmaps []dirtyInfo `json:"dirty-bitmaps"`
	}
	if err := s.Run(ctx, "query-named-block-nodes", args{"flat": true}, &list); err != nil {
		return nil, err
	}
	for _, n := range list {
		if n.Name == node {
			return ourBitmaps(n.Bitmaps), nil
		}
	}
	return nil, nil
}

// settle makes the bitmaps of a disk fit what came of the backup. After a good
// one the oldest go. After another one the new bitmap is merged back into the one
// before it, which records again.
func (s *session) settle(ctx context.Context, d *diskRecord, done bool) error {
	if d.Bitmap == "" {
		return nil
	}
	have, err := s.current(ctx, d.Node)
	if err != nil {
		return err
	}
	if done {
		return s.prune(ctx, d.Node, have)
	}
	find := func(name string) bool {
		return slices.ContainsFunc(have, func(b bitmap) bool { return b.Name == name })
	}
	if !find(d.Bitmap) {
		return nil
	}
	var actions []args
	if n := len(d.Was); n > 0 && find(d.Was[n-1]) {
		last := args{"node": d.Node, "name": d.Was[n-1]}
		// Recording begins before the merge, so that no write falls between.
		actions = append(actions, action("block-dirty-bitmap-enable", last),
			action("block-dirty-bitmap-merge", args{"node": d.Node, "target": d.Was[n-1], "bitmaps": []string{d.Bitmap}}))
	}
	return s.transaction(ctx, append(actions, action("block-dirty-bitmap-remove", args{"node": d.Node, "name": d.Bitmap})))
}

// prune removes bitmaps that no increment can be made with, and all but the last.
func (s *session) prune(ctx context.Context, node string, have []bitmap) error {
	for i, b := range have {
		if b.Busy || !b.Inconsistent && i >= len(have)-keepBitmaps {
			continue
		}
		if err := s.do(ctx, "block-dirty-bitmap-remove", args{"node": node, "name": b.Name}); err != nil {
			return err
		}
	}
	return nil
}

// changed is the union of bitmaps of an export.
type changed struct {
	im    *nbd.Image
	names []string
}

var _ snapshot.Runs = (*changed)(nil)

// Runs yields Data for what any of the bitmaps has, and Parent for the rest.
func (c *changed) Runs(off, n int64) iter.Seq2[disk.Run, error] {
	all := c.im.Dirty(c.names[0], off, n)
	for _, name := range c.names[1:] {
		all = union(all, c.im.Dirty(name, off, n))
	}
	return disk.Merge(all)
}

// union yields Data where one of two sequences over the same range has it, and
// Parent elsewhere.
func union(a, b iter.Seq2[disk.Run, error]) iter.Seq2[disk.Run, error] {
	return func(yield func(disk.Run, error) bool) {
		nextA, stopA := iter.Pull2(a)
		defer stopA()
		nextB, stopB := iter.Pull2(b)
		defer stopB()
		var ra, rb disk.Run
		for {
			var err error
			okA, okB := true, true
			if ra.Length == 0 {
				ra, err, okA = nextA()
			}
			if err == nil && rb.Length == 0 {
				rb, err, okB = nextB()
			}
			if err == nil && okA != okB {
				err = fmt.Errorf("dirty bitmaps of one disk end at different places: %w", disk.ErrMismatch)
			}
			if err != nil {
				yield(disk.Run{}, err)
				return
			}
			if !okA {
				return
			}
			r := disk.Run{Offset: ra.Offset, Length: min(ra.Length, rb.Length), Kind: disk.Parent}
			if ra.Kind != disk.Parent || rb.Kind != disk.Parent {
				r.Kind = disk.Data
			}
			if !yield(r, nil) {
				return
			}
			ra, rb = behind(ra, r.Length), behind(rb, r.Length)
		}
	}
}

// behind returns what of a run comes behind its first n bytes.
func behind(r disk.Run, n int64) disk.Run {
	return disk.Run{Offset: r.Offset + n, Length: r.Length - n, Kind: r.Kind}
}
