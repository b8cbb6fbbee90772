// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Files of a virtual drive's directory.
const (
	loadedName  = "loaded.tap" // the cartridge in the drive
	ejectedForm = "ejected-%d.tap"
	configName  = "drive.json"
)

// config is what drive.json says of a virtual drive.
type config struct {
	CapacityBytes     int64 `json:"capacity_bytes"`      // of a cartridge; 0: no bound
	EarlyWarningBytes int64 `json:"early_warning_bytes"` // at its end
	Protected         bool  `json:"write_protected"`
	// MaxBlockBytes bounds the length of a block; 0: 16 MiB.
	MaxBlockBytes int `json:"max_block_bytes"`
}

// virtual is a drive whose cartridge is a file. It does as Linux's driver does, which
// a test in the lab compares.
type virtual struct {
	dir      string
	config   config
	tap      *tapFile
	writing  bool
	at       int  // block before which the tape is
	block    int  // length of fixed blocks; 0: variable
	unmarked bool // the last thing done was writing a block
	warned   bool // the next write says errEnd
	eod      bool // a read has met the end of data
	wrote    bool // nothing else was done since something was written
	faults   *faults
}

// faults are errors to come, for tests.
type faults struct {
	fail  func(what string) error // before a read, a write or an operation
	alert []string
}

// openVirtual opens the virtual drive of a directory.
func openVirtual(dir string, writing bool, f *faults) (drive, error) {
	v := &virtual{dir: dir, writing: writing, faults: f}
	b, err := os.ReadFile(filepath.Join(dir, configName))
	if err == nil {
		err = json.Unmarshal(b, &v.config)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, configName), err)
	}
	if writing && v.config.Protected {
		return nil, fmt.Errorf("%s: %w", dir, errProtected)
	}
	v.tap, err = openTap(filepath.Join(dir, loadedName), writing)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: %w: an empty file %s is a blank tape", dir, errNoTape, loadedName)
	case err != nil:
		return nil, err
	}
	if err := lock(v.tap.f); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", dir, err), v.tap.f.Close())
	}
	return v, nil
}

// fail is the error that a test has asked for.
func (v *virtual) fail(what string) error {
	if v.faults == nil || v.faults.fail == nil {
		return nil
	}
	return v.faults.fail(what)
}

func (v *virtual) alerts() ([]string, error) {
	if v.faults == nil {
		return nil, nil
	}
	a := v.faults.alert
	v.faults.alert = nil
	return a, nil
}

func (v *virtual) read(p []byte) (int, error) {
	if v.tap == nil {
		return 0, errNoTape
	}
	if err := v.fail("read"); err != nil {
		return 0, err
	}
	if v.block > 0 && len(p)%v.block != 0 {
		return 0, errArgument
	}
	if v.wrote {
		return 0, errIO
	}
	n := 0
	for n < len(p) {
		if v.at == len(v.tap.blocks) {
			return v.atEndOfData(n)
		}
		b := v.tap.blocks[v.at]
		if b.length == tapMark {
			if n == 0 {
				v.at++
			}
			return n, nil
		}
		if v.block > 0 && int(b.length) != v.block {
			return n, orIO(n)
		}
		v.at++
		if v.block == 0 && int(b.length) > len(p) {
			return 0, errSmall
		}
		m, err := v.tap.load(b, p[n:])
		if err != nil && !errors.Is(err, io.EOF) {
			return n, fmt.Errorf("%w: %w", errIO, err)
		}
		if n += m; v.block == 0 {
			break
		}
	}
	return n, nil
}

// orIO is an error unless something was read before.
func orIO(n int) error {
	if n == 0 {
		return errIO
	}
	return nil
}

// atEndOfData is what a read gives there: nothing once, and an error the next time.
func (v *virtual) atEndOfData(n int) (int, error) {
	if n > 0 {
		return n, nil
	}
	if v.eod || v.at == 0 { // also on a blank tape
		return 0, errIO
	}
	v.eod = true
	return 0, nil
}

func (v *virtual) write(p []byte) (int, error) {
	switch {
	case v.tap == nil:
		return 0, errNoTape
	case !v.writing:
		return 0, fs.ErrPermission
	case len(p) == 0:
		return 0, nil
	case v.block > 0 && len(p)%v.block != 0, len(p) > maxTapBlock:
		return 0, errArgument
	case v.config.MaxBlockBytes > 0 && len(p) > v.config.MaxBlockBytes:
		return 0, errBusy // st says so if it cannot make its buffer
	}
	if err := v.fail("write"); err != nil {
		return 0, err
	}
	if v.warned {
		v.warned = false
		return 0, errEnd
	}
	if err := v.tap.cut(v.at); err != nil {
		return 0, fmt.Errorf("%w: %w", errIO, err)
	}
	v.wrote = true
	size := len(p)
	if v.block > 0 {
		size = v.block
	}
	for n := 0; n < len(p); n += size {
		if v.beyond(int64(size)) {
			return n, errEnd
		}
		if err := v.tap.append(p[n : n+size]); err != nil {
			return n, fmt.Errorf("%w: %w", errIO, err)
		}
		v.at++
		v.unmarked = true
	}
	v.warned = v.inZone()
	return len(p), nil
}

// beyond reports if so much more does not fit.
func (v *virtual) beyond(n int64) bool {
	return v.config.CapacityBytes > 0 && v.tap.used+n > v.config.CapacityBytes
}

// inZone reports if the tape is past the early warning.
func (v *virtual) inZone() bool {
	return v.config.CapacityBytes > 0 && v.tap.used > v.config.CapacityBytes-v.config.EarlyWarningBytes
}

func (v *virtual) status() (status, error) {
	if v.tap == nil {
		return status{}, nil
	}
	return status{online: true, protected: v.config.Protected, beginning: v.at == 0, endOfData: v.eod, blockSize: v.block}, nil
}

func (v *virtual) position() (int64, error) {
	if v.tap == nil {
		return 0, errNoTape
	}
	return int64(v.at), nil
}

func (v *virtual) close() error {
	if v.tap == nil {
		return nil
	}
	err := v.finish()
	err = errors.Join(err, v.tap.f.Close())
	v.tap = nil
	return err
}

// finish writes the filemark that ends a file.
func (v *virtual) finish() error {
	if !v.unmarked {
		return nil
	}
	return v.mark(1)
}
