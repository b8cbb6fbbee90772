// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

func untrusted(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, ErrUntrustedPlugin)...)
}

// maxSumBytes bounds a file with a checksum, which has one line.
const maxSumBytes = 4 << 10

// executable is a file that was found trustworthy, and is open.
type executable struct {
	file   *os.File
	path   string // without symbolic links
	script bool   // an interpreter opens it by its name
}

// close closes the file; there may be none.
func (x *executable) close() {
	if x != nil {
		_ = x.file.Close() // only read
	}
}

// trust opens an executable if nobody but root and ourselves can have put it
// there or can replace it, and if its content has the SHA-256 that is asked for, in
// hexadecimal; empty: what a file beside it says, if there is one.
func (c *truster) trust(path, sum string) (*executable, error) {
	resolved, err := c.walk(path)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(resolved)
	if err != nil {
		return nil, err
	}
	x := &executable{file: file, path: resolved}
	if err := c.examine(x, path, sum); err != nil {
		_ = file.Close() // only read
		return nil, err
	}
	return x, nil
}

// examine looks at the file that is open, whatever its name stands for by now.
func (c *truster) examine(x *executable, path, sum string) error {
	i, err := x.file.Stat()
	switch {
	case err != nil:
		return err
	case !i.Mode().IsRegular():
		return untrusted("%s is no regular file", x.path)
	case i.Mode().Perm()&0o111 == 0 && checksModes:
		return untrusted("%s is not executable", x.path)
	}
	if err := c.safe(x.path, i); err != nil {
		return err
	}
	if sum == "" {
		if sum, err = c.sumBeside(path); err != nil {
			return err
		}
	}
	head := make([]byte, 2)
	if n, err := x.file.ReadAt(head, 0); err != nil && (n > 0 || !errors.Is(err, io.EOF)) {
		return err
	}
	x.script = bytes.Equal(head, []byte("#!"))
	if sum == "" {
		return nil
	}
	return checkSum(x, sum)
}

func checkSum(x *executable, want string) error {
	h := sha256.New()
	if _, err := io.Copy(h, x.file); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != strings.ToLower(want) {
		return untrusted("%s has the SHA-256 %s, not %s", x.path, got, want)
	}
	return nil
}

// sumBeside returns the checksum in the file that has the executable's name and
// .sha256 behind it, as sha256sum writes it; empty if there is no such file.
func (c *truster) sumBeside(path string) (string, error) {
	path += ".sha256"
	resolved, err := c.walk(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	f, err := os.Open(resolved)
	if err != nil {
		return "", err
	}
	defer f.Close() // only read
	i, err := f.Stat()
	if err != nil {
		return "", err
	}
	if err := c.safe(resolved, i); err != nil {
		return "", err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSumBytes))
	if err != nil {
		return "", err
	}
	sum, _, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	if !isSum(sum) {
		return "", untrusted("%s does not begin with a SHA-256", path)
	}
	return sum, nil
}

func isSum(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == sha256.Size
}

// ParseChecksums takes apart NAME=SHA256, several separated by commas or spaces.
func ParseChecksums(s string) (map[string]string, error) {
	sums := map[string]string{}
	for _, pair := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' }) {
		name, sum, ok := strings.Cut(pair, "=")
		if !ok || !nameForm.MatchString(name) || !isSum(sum) {
			return nil, fmt.Errorf("checksum %q: write NAME=SHA256 with 64 hexadecimal digits", short(pair))
		}
		if sums[name] != "" {
			return nil, fmt.Errorf("checksum of %s: there are two", name)
		}
		sums[name] = strings.ToLower(sum)
	}
	return sums, nil
}

// truster looks at files and at the directories that they are in.
type truster struct {
	below string // in tests: directories from here up are not looked at
}

// maxLinks bounds the symbolic links on the way to a file, as Linux does.
const maxLinks = 40

// walk resolves a path step by step. All directories on the way, those of symbolic
// links too, must be safe: who can write to one of them decides what is found.
func (c *truster) walk(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	root := filepath.VolumeName(path) + string(filepath.Separator)
	todo, at := split(path[len(root):]), root
	for links := 0; len(todo) > 0; {
		if err := c.directory(at); err != nil {
			return "", err
		}
		next := filepath.Join(at, todo[0])
		todo = todo[1:]
		i, err := os.Lstat(next)
		if err != nil {
			return "", err
		}
		if i.Mode()&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", untrusted("%s: too many symbolic links", path)
		}
		to, err := os.Readlink(next)
		if err != nil {
			return "", err
		}
		if filepath.IsAbs(to) {
			at, to = root, to[len(root):]
		}
		todo = append(split(to), todo...)
	}
	return at, nil
}

// split takes a path apart; .. stays, and is resolved where it leads.
func split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' || r == filepath.Separator })
}

func (c *truster) directory(path string) error {
	if c.below != "" && (c.below == path || strings.HasPrefix(c.below, strings.TrimSuffix(path, "/")+"/")) {
		return nil
	}
	i, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !i.IsDir() {
		return fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	return c.safe(path, i)
}
