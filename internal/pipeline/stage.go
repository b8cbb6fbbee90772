// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vmstream/vmstream/disk"
)

// stage is a directory in which files wait for their final names, on the file
// system they are to stay on.
type stage struct {
	dir   string
	final string // directory that they go to
	force bool   // replace files
	swap  bool   // replace the directory
	done  bool
}

func newStage(in, final string, force bool) (*stage, error) {
	dir, err := os.MkdirTemp(in, ".vmstream-restore-*")
	if err != nil {
		return nil, err
	}
	return &stage{dir: dir, final: final, force: force}, nil
}

// create makes a file in the stage; name is a single component.
func (s *stage) create(name string, mode fs.FileMode) (*os.File, error) {
	return os.OpenFile(filepath.Join(s.dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode|0o600)
}

// replace gives a staged file new content.
func (s *stage) replace(name string, content []byte) error {
	path := filepath.Join(s.dir, name)
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Chtimes(path, st.ModTime(), st.ModTime())
	}
	return err
}

// commit moves everything to the final directory and returns the paths there.
// A directory that does not exist yet appears with all its files at once.
func (s *stage) commit() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	paths := make([]string, len(entries))
	for i, e := range entries {
		paths[i] = filepath.Join(s.final, e.Name())
	}
	if err := disk.SyncDir(s.dir); err != nil {
		return nil, err
	}
	if s.wholeDirectory() {
		return paths, s.moveDirectory()
	}
	if s.swap {
		return paths, s.swapDirectory()
	}
	if err := s.moveFiles(entries); err != nil {
		return nil, err
	}
	s.done = true
	return paths, errors.Join(os.Remove(s.dir), disk.SyncDir(s.final), disk.SyncDir(filepath.Dir(s.dir)))
}

// wholeDirectory reports if the stage can become the final directory.
func (s *stage) wholeDirectory() bool {
	if filepath.Dir(s.dir) == s.final {
		return false
	}
	err := os.Remove(s.final) // goes only if it is empty
	return err == nil || errors.Is(err, fs.ErrNotExist)
}

func (s *stage) moveDirectory() error {
	if err := os.Chmod(s.dir, 0o755); err != nil {
		return err
	}
	if err := os.Rename(s.dir, s.final); err != nil {
		return err
	}
	s.done = true
	return disk.SyncDir(filepath.Dir(s.final))
}

// exchangeNames is exchange, but for tests of systems that cannot do it.
var exchangeNames = exchange

// swapDirectory puts the stage in the place of the final directory, which is
// removed then. Where the system can exchange two names there is one of the two
// at any time.
func (s *stage) swapDirectory() error {
	if err := os.Chmod(s.dir, 0o755); err != nil {
		return err
	}
	old := s.dir // has the old files after an exchange
	if err := exchangeNames(s.dir, s.final); err != nil {
		old = s.dir + ".old"
		if err := os.Rename(s.final, old); err != nil {
			return err
		}
		if err := os.Rename(s.dir, s.final); err != nil {
			return errors.Join(err, os.Rename(old, s.final))
		}
	}
	s.done = true
	return errors.Join(disk.SyncDir(filepath.Dir(s.final)), os.RemoveAll(old))
}

// moveFiles moves file by file. Without force nothing is replaced: a link is
// made, which fails where a name is taken.
func (s *stage) moveFiles(entries []fs.DirEntry) error {
	var moved []string
	for _, e := range entries {
		from, to := filepath.Join(s.dir, e.Name()), filepath.Join(s.final, e.Name())
		err := s.move(from, to)
		if err != nil {
			if !s.force { // these names were free before
				for _, m := range moved {
					err = errors.Join(err, os.Remove(m))
				}
			}
			return fmt.Errorf("final name of a restored file: %w", err)
		}
		moved = append(moved, to)
	}
	return nil
}

func (s *stage) move(from, to string) error {
	if s.force {
		return os.Rename(from, to)
	}
	return giveName(from, to)
}

// giveName gives a file another name, which must not be there yet.
func giveName(from, to string) error {
	if err := os.Link(from, to); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return err
		}
		// No hard links on this file system: look, then move.
		if _, serr := os.Lstat(to); serr == nil {
			return fmt.Errorf("%s: %w", to, fs.ErrExist)
		}
		return os.Rename(from, to)
	}
	return os.Remove(from)
}

// abort removes the stage unless it has been committed.
func (s *stage) abort() {
	if !s.done {
		_ = os.RemoveAll(s.dir) // what is left is visibly no finished restore
	}
}

// FreeSpace returns how many bytes are free for us where dir is, or is going to
// be made.
func FreeSpace(dir string) (int64, bool) {
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return disk.FreeBytes(dir)
		}
		dir = filepath.Dir(dir)
	}
}
