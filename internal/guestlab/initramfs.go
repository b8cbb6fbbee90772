// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package guestlab

import (
	"fmt"
	"io"
	"path"
)

// cpioWriter writes an initramfs: a cpio archive of the kind "newc", as
// Documentation/driver-api/early-userspace/buffer-format.rst of Linux has it.
// The first error stays.
type cpioWriter struct {
	w   io.Writer
	at  int64
	ino int
	err error
}

const (
	cpioDir  = 0o040755
	cpioFile = 0o100755
)

func (c *cpioWriter) dir(name string) { c.add(name, cpioDir, nil) }

func (c *cpioWriter) file(name string, content []byte) { c.add(name, cpioFile, content) }

// parents makes the directories that a file is in, unless they are there.
func (c *cpioWriter) parents(name string, there map[string]bool) {
	if dir := path.Dir(name); !there[dir] {
		c.parents(dir, there)
		c.dir(dir)
		there[dir] = true
	}
}

// close writes the end; it does not close the writer below.
func (c *cpioWriter) close() error {
	c.add("TRAILER!!!", 0, nil)
	return c.err
}

func (c *cpioWriter) add(name string, mode int, content []byte) {
	c.ino++
	// Inode, mode, user, group, links, time, length, device of the file and in
	// it, length of the name with its NUL, checksum (not used).
	c.write(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.ino, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0))
	c.write(append([]byte(name), 0))
	c.pad()
	c.write(content)
	c.pad()
}

func (c *cpioWriter) pad() { c.write(make([]byte, -c.at&3)) }

func (c *cpioWriter) write(b []byte) {
	if c.err != nil {
		return
	}
	n, err := c.w.Write(b)
	c.at += int64(n)
	c.err = err
}
