// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"context"
	"path/filepath"

	"github.com/vmstream/vmstream/redo"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
)

// Rewrite makes the monolithic sparse disk at path anew, with more capacity and another
// geometry. The new file gets the old one's name, permissions and content id when it is
// complete; until then the old one is there.
func Rewrite(ctx context.Context, path string, sizeBytes int64, g vmdk.Geometry, n *stream.Counters) error {
	src, err := OpenDisk(ctx, path, SourceOptions{Format: vmdk.SourceVMDK})
	if err != nil {
		return err
	}
	defer src.Close()
	c := &conversion{
		opt: ConvertOptions{To: path, Format: vmdk.FormatSparse, Force: true}, inPlace: true,
		rec: src.Disks[0].Record, im: src.Disks[0].Image,
	}
	c.rec.CapacityBytes, c.rec.Geometry, c.rec.CID = sizeBytes, g, c.rec.Source.CID
	defer c.abort()
	if err := c.begin(ctx); err != nil {
		return err
	}
	n.Total.Add(c.im.Size())
	cp := &copier{im: c.im, w: c.w, count: n}
	if err := cp.run(ctx); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	c.closed = true
	if err := c.w.Close(); err != nil {
		return err
	}
	if err := redo.CopyOwner(filepath.Join(c.stage.dir, filepath.Base(path)), path); err != nil {
		return err
	}
	_, err = c.stage.commit()
	return err
}
