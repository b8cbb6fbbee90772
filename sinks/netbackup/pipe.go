// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package netbackup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/vmstream/vmstream/sinks/internal/child"
)

// makePipe makes a named pipe in a directory that only we may change. Whoever has one
// of that name already is at work on this key.
func makePipe(dir, name string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	st, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	if !st.IsDir() || st.Mode().Perm()&0o022 != 0 {
		return "", fmt.Errorf("%s: it has to be a directory that only its owner may write to", dir)
	}
	path := filepath.Join(dir, name)
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		return "", fmt.Errorf("%s: %w; remove it if no backup of that name runs", path, err)
	}
	return path, nil
}

// openForWriting opens the pipe once the program has opened it for reading. It gives
// up when the program ends or ctx does.
func openForWriting(ctx context.Context, path string, p *child.Process) (*os.File, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if !errors.Is(err, syscall.ENXIO) { // nobody reads yet
			return f, err
		}
		select {
		case <-tick.C:
		case <-p.Done():
			if err := outcome(ctx, p, "bpbackup"); err != nil {
				return nil, err
			}
			return nil, errors.New("bpbackup has ended without reading the pipe; BACKUP_FIFO_FILES = 1 has to be set on the client")
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
