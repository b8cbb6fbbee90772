// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/scsi"
)

// WithUnmapped returns a tree in which block devices on thin LUNs tell by Runs what holds
// nothing, so that it is not read. Others are as they were: whether a LUN tells is found
// out when the device is opened, and costs a command or two. warn is told, once for each
// device, if one that did tell does not any more; all of it is read then.
func WithUnmapped(tree disk.Tree, warn func(string)) disk.Tree { return &unmappedTree{tree, warn} }

type unmappedTree struct {
	disk.Tree
	warn func(string)
}

// askTime is how long a device may take to say that it does not tell.
const askTime = 20 * time.Second

func (t *unmappedTree) Open(name string) (disk.RawFile, error) {
	f, err := t.Tree.Open(name)
	if err != nil || !f.Device() {
		return f, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	thin, err := scsi.OpenThin(ctx, name)
	if err != nil { // it is no LUN, does not tell, or only root may ask: it can be read
		return f, nil //nolint:nilerr // as the comment says
	}
	if thin.Size() != f.Size() {
		return f, thin.Close()
	}
	// What this machine has written and still has in memory is not on the LUN yet.
	if s, ok := f.(*disk.File); ok {
		if err := s.File().Sync(); err != nil {
			return nil, errors.Join(err, thin.Close(), f.Close())
		}
	}
	return &unmappedFile{RawFile: f, ranges: thin.Ranges, stop: thin.Close, warn: t.warn}, nil
}

// unmappedFile is a block device that tells what holds nothing.
type unmappedFile struct {
	disk.RawFile
	ranges func(ctx context.Context, off, n int64) iter.Seq2[scsi.Range, error]
	stop   func() error
	warn   func(string)

	mu     sync.Mutex
	silent bool // it does not tell any more
}

// Runs yields what holds nothing as zeros. After the first failure all is data.
func (f *unmappedFile) Runs(off, n int64) iter.Seq2[disk.Run, error] {
	return func(yield func(disk.Run, error) bool) {
		at := off
		if f.tells() {
			for r, err := range f.ranges(context.Background(), off, n) {
				if err != nil {
					f.fallSilent(err)
					break
				}
				kind := disk.Data
				if r.Unmapped {
					kind = disk.Zero
				}
				if !yield(disk.Run{Offset: r.Offset, Length: r.Length, Kind: kind}, nil) {
					return
				}
				at = r.Offset + r.Length
			}
		}
		for r, err := range f.RawFile.Runs(at, n-(at-off)) {
			if !yield(r, err) {
				return
			}
		}
	}
}

// Prefetch implements disk.Prefetcher.
func (f *unmappedFile) Prefetch(off, n int64) { disk.Prefetch(f.RawFile, off, n) }

func (f *unmappedFile) tells() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.silent
}

func (f *unmappedFile) fallSilent(err error) {
	f.mu.Lock()
	first := !f.silent
	f.silent = true
	f.mu.Unlock()
	if first && f.warn != nil {
		f.warn(fmt.Sprintf("%s: it does not tell any more what holds nothing, and is read as a whole: %v", f.Name(), err))
	}
}

// Close closes the device on both ways to it.
func (f *unmappedFile) Close() error { return errors.Join(f.stop(), f.RawFile.Close()) }
