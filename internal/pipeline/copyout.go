// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream"
)

// CopyOut copies an image to a new raw file, without its zeros. The file appears under
// its name, which must not be there yet, when all of it is on the disk and check, which
// may be nil, has found nothing.
func CopyOut(ctx context.Context, im disk.Image, check func() error, path string) error {
	if _, err := os.Lstat(path); err == nil { // before much is copied
		return fmt.Errorf("%s is there already: %w", path, fs.ErrExist)
	}
	part := filepath.Join(filepath.Dir(path), ".vmstream-"+rand.Text()+".part")
	t, err := disk.CreateRaw(part, im.Size())
	if err != nil {
		return err
	}
	defer os.Remove(part) // it has another name then, or is not wanted
	c := &copier{im: im, w: t, count: new(stream.Counters)}
	err = c.run(ctx)
	if err == nil && check != nil {
		err = check()
	}
	if err != nil {
		t.Abort()
		return err
	}
	if err := t.Close(); err != nil {
		return err
	}
	return errors.Join(giveName(part, path), disk.SyncDir(filepath.Dir(path)))
}

// CopyInto copies an image to w, without its zeros, and closes it, or aborts it if
// something fails.
func CopyInto(ctx context.Context, im disk.Image, w disk.Writer) error {
	c := &copier{im: im, w: w, count: new(stream.Counters)}
	if err := c.run(ctx); err != nil {
		w.Abort()
		return err
	}
	return w.Close()
}
