// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

func (v *virtual) do(op operation, count int) error {
	if v.tap == nil {
		return fmt.Errorf("%v: %w", op, errNoTape)
	}
	err := v.fail(op.String())
	if err == nil {
		err = v.run(op, count)
	}
	if err != nil {
		return fmt.Errorf("%v: %w", op, err)
	}
	return nil
}

func (v *virtual) run(op operation, count int) error {
	switch op {
	case opSetBlock:
		if count < 0 || count > maxTapBlock {
			return errArgument
		}
		v.block = count
		return nil
	case opMark:
		return v.mark(count)
	}
	if err := v.finish(); err != nil {
		return err
	}
	v.warned, v.eod, v.wrote = false, false, false
	switch op {
	case opRewind:
		v.at = 0
	case opEnd:
		v.at = len(v.tap.blocks)
	case opSeek:
		if count < 0 || count > len(v.tap.blocks) {
			v.at = len(v.tap.blocks)
			return errIO
		}
		v.at = count
	case opSpace:
		return v.space(count)
	case opBack:
		return v.back(count)
	case opOffline:
		return v.eject()
	default:
		return errArgument
	}
	return nil
}

// mark writes filemarks, and everything before them to the disk.
func (v *virtual) mark(count int) error {
	if !v.writing {
		return fs.ErrPermission
	}
	if err := v.tap.cut(v.at); err != nil {
		return fmt.Errorf("%w: %w", errIO, err)
	}
	v.unmarked, v.wrote = false, true
	for range count {
		if v.beyond(markCost) {
			return errIO // as the driver says it
		}
		if err := v.tap.append(nil); err != nil {
			return fmt.Errorf("%w: %w", errIO, err)
		}
		v.at++
	}
	if err := v.tap.f.Sync(); err != nil {
		return fmt.Errorf("%w: %w", errIO, err)
	}
	return nil
}

// space goes behind the count-th filemark from here.
func (v *virtual) space(count int) error {
	for ; count > 0; v.at++ {
		if v.at == len(v.tap.blocks) {
			return errIO
		}
		if v.tap.blocks[v.at].length == tapMark {
			count--
		}
	}
	return nil
}

// back goes to the far side of the count-th filemark before here.
func (v *virtual) back(count int) error {
	for v.at > 0 {
		if v.at--; v.tap.blocks[v.at].length != tapMark {
			continue
		}
		if count--; count == 0 {
			v.at++
			return nil
		}
	}
	return errIO
}

// eject takes the cartridge out: it gets another name.
func (v *virtual) eject() error {
	if err := v.tap.f.Close(); err != nil {
		return err
	}
	v.tap = nil
	for n := 1; ; n++ {
		name := filepath.Join(v.dir, fmt.Sprintf(ejectedForm, n))
		switch _, err := os.Lstat(name); {
		case errors.Is(err, fs.ErrNotExist):
			return os.Rename(filepath.Join(v.dir, loadedName), name)
		case err != nil:
			return err
		}
	}
}
