// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vm/nbd"
	"github.com/vmstream/vmstream/vm/qmp"
)

// socketName is the NBD server's socket in its directory, which nobody else may
// enter: who can connect reads the disks.
const socketName = "nbd"

// maxSocketPath is what an address of a unix socket has room for.
const maxSocketPath = 107

// serverDir names the directory of the server's socket, which is made when the
// name has been noted.
func serverDir(parent, tag string) string {
	if parent == "" {
		parent = os.TempDir()
	}
	dir := filepath.Join(parent, tempPrefix+tag)
	if len(filepath.Join(dir, socketName)) > maxSocketPath { // the parent's name is long
		dir = filepath.Join("/tmp", tempPrefix+tag)
	}
	return dir
}

func (r *record) socket() string { return filepath.Join(r.ServerDir, socketName) }

// startServer starts QEMU's NBD server on a socket that we make and hand over:
// so QEMU needs no right to a directory of ours, nor we to one of QEMU's.
func (s *session) startServer(ctx context.Context) error {
	// It must not exist: somebody else would be able to look in.
	if err := os.Mkdir(s.rec.ServerDir, 0o700); err != nil {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.rec.socket(), Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	if err = errors.Join(err, l.Close()); err != nil {
		return err
	}
	defer f.Close()
	const fd = "vmstream-nbd"
	if err := s.step("before getfd"); err != nil {
		return err
	}
	if err := s.RunFile(ctx, "getfd", args{"fdname": fd}, f, nil); err != nil {
		return err
	}
	err = s.do(ctx, "nbd-server-start", args{"addr": args{"type": "fd", "data": args{"str": fd}}})
	s.serving = err == nil
	var refused *qmp.Error
	if errors.As(err, &refused) {
		_ = s.Run(ctx, "closefd", args{"fdname": fd}, nil) // it has it still
		if strings.Contains(refused.Desc, "already running") {
			return inUse("QEMU's NBD server runs for somebody else; if a backup of ours was killed, see vmstream snapshot list: %v", refused)
		}
	}
	return err
}

// ourServer reports if QEMU's NBD server runs on our socket. A run that was
// killed may have come to start it, or not.
func (s *session) ourServer(ctx context.Context) bool {
	if s.serving || s.rec.ServerDir == "" {
		return s.serving
	}
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(ctx, "unix", s.rec.socket())
	if err != nil {
		return false
	}
	defer conn.Close()
	// A socket that QEMU has, but does not serve, takes connections too.
	return conn.SetDeadline(time.Now().Add(time.Second)) == nil && nbd.Probe(conn)
}

// stopServer stops the server if it is ours. Its exports go first: with mode
// hard, so that a connection of a run that was killed is no matter.
func (s *session) stopServer(ctx context.Context) error {
	var exports []struct {
		ID string `json:"id"`
	}
	list := func() (map[string]bool, error) {
		exports = nil
		if err := s.Run(ctx, "query-block-exports", nil, &exports); err != nil {
			return nil, err
		}
		ids := map[string]bool{}
		for _, e := range exports {
			ids[e.ID] = true
		}
		return ids, nil
	}
	there, err := list()
	if err != nil {
		return err
	}
	for _, d := range s.rec.Disks {
		if !there[d.Export] {
			continue
		}
		err := s.do(ctx, "block-export-del", args{"id": d.Export, "mode": "hard"})
		var refused *qmp.Error
		if err != nil && !errors.As(err, &refused) { // being deleted already: the wait tells
			return err
		}
		for pause := pollFirst; there[d.Export]; pause = min(2*pause, pollLast) {
			if err := sleep(ctx, pause); err != nil {
				return err
			}
			if there, err = list(); err != nil {
				return err
			}
		}
	}
	if !s.ourServer(ctx) {
		return nil
	}
	s.serving = false
	return s.do(ctx, "nbd-server-stop", nil)
}

// removeServerDir removes the socket and its directory.
func (r *record) removeServerDir() error {
	if r.ServerDir == "" {
		return nil
	}
	for _, p := range []string{r.socket(), r.ServerDir} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// export makes a node readable with the bitmaps that an increment needs.
func (s *session) export(ctx context.Context, d *diskRecord, node string, bitmaps []string) error {
	a := args{"type": "nbd", "id": d.Export, "node-name": node, "name": d.Export, "writable": false}
	if len(bitmaps) > 0 {
		a["bitmaps"] = bitmaps // looked for in the node and in what it is backed by
	}
	return s.do(ctx, "block-export-add", a)
}

// open opens an export as a disk.
func (s *session) open(ctx context.Context, d *diskRecord, sizeBytes int64, bitmaps []string) (*nbd.Image, error) {
	im, err := nbd.Open(ctx, nbd.Options{
		Export: d.Export, Bitmaps: bitmaps, Dial: nbd.DialUnix(s.rec.socket()), ConfirmZeros: s.rec.Mode == Fleece,
	})
	if err != nil {
		return nil, err
	}
	if im.Size() != sizeBytes {
		return nil, errors.Join(fmt.Errorf("%s: the export has %d bytes, the disk has %d: %w", d.Key, im.Size(), sizeBytes, disk.ErrMismatch), im.Close())
	}
	return im, nil
}
