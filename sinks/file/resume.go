// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/vmstream/vmstream/internal/writeback"
)

// keptName is that of the temporary file of a run that may be gone on with: whoever has
// the key and the id of the backup finds it.
func keptName(key, id string) string {
	sum := sha256.Sum256([]byte(key + "\x00" + id))
	return partName(key, base32.StdEncoding.EncodeToString(sum[:])[:partRandom])
}

func partName(key, random string) string {
	return path.Join(path.Dir(key), "."+path.Base(key)+".vmstream-"+random+".part")
}

// keptPart opens the temporary file of a run that may be gone on with. Nobody else
// writes to it then. Without resume it is empty.
func keptPart(root *os.Root, key, id string, mode os.FileMode, resume bool) (*writeback.File, string, int64, error) {
	name := keptName(key, id)
	if fi, err := root.Lstat(name); err == nil && !fi.Mode().IsRegular() {
		return nil, "", 0, regular(name, fi)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, "", 0, err
	}
	f, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE, mode)
	if err != nil {
		return nil, "", 0, err
	}
	if err := lock(f, false); err != nil {
		return nil, "", 0, errors.Join(err, f.Close())
	}
	if !resume {
		if err := f.Truncate(0); err != nil {
			return nil, "", 0, errors.Join(err, f.Close())
		}
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, "", 0, errors.Join(err, f.Close())
	}
	return writeback.New(f), name, fi.Size(), nil
}

// kept is what an earlier run has left of a file: it is compared with what is written
// again, and what differs goes.
type kept struct {
	file *writeback.File
	left int64 // bytes that have not been compared
	buf  []byte
}

// pass compares p with the file at off, and returns how much of it is there already.
func (k *kept) pass(p []byte, off int64) (int, error) {
	done := 0
	for k.left > 0 && done < len(p) {
		if k.buf == nil {
			k.buf = make([]byte, 256<<10)
		}
		b := k.buf[:min(int64(len(k.buf)), k.left, int64(len(p)-done))]
		n, err := k.file.ReadAt(b, off+int64(done))
		if err != nil && err != io.EOF {
			return done, err
		}
		same := matching(b[:n], p[done:])
		done, k.left = done+same, k.left-int64(same)
		if same < len(b) {
			k.left = 0
			return done, k.file.Truncate(off + int64(done))
		}
	}
	return done, nil
}

// matching returns how many bytes of a are those of b, which is no shorter.
func matching(a, b []byte) int {
	if bytes.Equal(a, b[:len(a)]) {
		return len(a)
	}
	n := 0
	for n < len(a) && a[n] == b[n] {
		n++
	}
	return n
}
