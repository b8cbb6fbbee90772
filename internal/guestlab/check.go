// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

package guestlab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/internal/guestlab/record"
	"github.com/vmstream/vmstream/internal/testenv"
)

// Range is what the number of the last record on a disk has to be. What was
// durable before the point in time has to be there (Min). What was written
// later must not be (Max; 0 is no bound): use what was durable afterwards and
// one more, which may have been on its way.
type Range struct{ Min, Max uint64 }

// CheckRestored fails the test unless raw images of all disks of a guest are
// what the guest had written at one point in time: see Examine. It returns the
// number of the last record.
func CheckRestored(tb testing.TB, want Range, images ...string) uint64 {
	tb.Helper()
	n, err := Examine(tb, want, images...)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// Examine returns the number of the last record on raw images of all disks of a
// guest, or an error: if a file system is not clean once its journal has been
// replayed, if its records are not an unbroken, undamaged row from the first
// one, if the disks are not of one point in time, or if the last record is not
// in the range. The images are not written to.
func Examine(tb testing.TB, want Range, images ...string) (uint64, error) {
	tb.Helper()
	if len(images) == 0 {
		return 0, errors.New("no images")
	}
	var first, last uint64
	for i, image := range images {
		n, err := examineDisk(tb, image, i)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", image, err)
		}
		// A record goes to the disks in their order and is durable on one
		// before it is written to the next.
		if i == 0 {
			first, last = n, n
		}
		if n > last || n+1 < first {
			return 0, fmt.Errorf("%s: %d records, %d on the disk before and %d on the first: not one point in time", image, n, last, first)
		}
		last = n
	}
	if last < want.Min {
		return 0, fmt.Errorf("%d records; %d had been durable", last, want.Min)
	}
	if want.Max != 0 && first > want.Max {
		return 0, fmt.Errorf("%d records; %d is the last that can have been written", first, want.Max)
	}
	return last, nil
}

func examineDisk(tb testing.TB, image string, disk int) (uint64, error) {
	tb.Helper()
	e2fsck, debugfs := sbinTool(tb, "e2fsck"), sbinTool(tb, "debugfs")
	dir := tb.TempDir()
	defer os.RemoveAll(dir) // before the end of the test: there are many
	work := filepath.Join(dir, "disk.raw")
	if _, err := foreign(tb, testenv.Tool(tb, "cp"), "--sparse=always", image, work); err != nil {
		return 0, err
	}
	// What a mount does: replay the journal, and end what had been begun to
	// delete. Then nothing may be left to repair.
	if out, err := foreign(tb, e2fsck, "-p", work); err != nil && exitCode(err) != 1 {
		return 0, fmt.Errorf("replay of the journal: %w\n%s", err, out)
	}
	if out, err := foreign(tb, e2fsck, "-f", "-n", work); err != nil {
		return 0, fmt.Errorf("the file system is not clean: %w\n%s", err, out)
	}
	// debugfs has no exit code for a failure; what is missing shows.
	out, err := foreign(tb, debugfs, "-R", fmt.Sprintf("rdump / %q", dir), work)
	if err != nil {
		return 0, fmt.Errorf("%w\n%s", err, out)
	}
	if err := checkBallast(filepath.Join(dir, ballastName)); err != nil {
		return 0, err
	}
	n, err := readRecords(filepath.Join(dir, "records"), uint64(disk)) //nolint:gosec // a small number
	if err != nil {
		return 0, fmt.Errorf("%w\n%s", err, strings.TrimSpace(out))
	}
	return n, nil
}

// checkBallast checks the file that never changes, if the disk has one.
func checkBallast(path string) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !bytes.Equal(b, ballast(int64(len(b)))) {
		return errors.New("the file that never changes has changed")
	}
	return nil
}

// readRecords reads the files of records of a directory and returns how many
// there are: every byte of every file has to belong to the next record.
func readRecords(dir string, disk uint64) (uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	n := uint64(0)
	for i, e := range entries {
		index, err := record.FileIndex(e.Name())
		if err != nil {
			return 0, err
		}
		if index != uint64(i) || n != index*record.PerFile { //nolint:gosec // not negative
			return 0, fmt.Errorf("file %s follows %d records", e.Name(), n)
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return 0, err
		}
		if n, err = parseRecords(b, n, disk); err != nil {
			return 0, fmt.Errorf("file %s: %w", e.Name(), err)
		}
	}
	return n, nil
}

func parseRecords(b []byte, n, disk uint64) (uint64, error) {
	if len(b) > record.Size*record.PerFile {
		return 0, fmt.Errorf("%d bytes", len(b))
	}
	for ; len(b) > 0; n++ {
		r, err := record.Parse(b[:min(record.Size, len(b))])
		if err != nil {
			return 0, fmt.Errorf("after record %d: %w", n, err)
		}
		if r.Number != n+1 || r.Disk != disk {
			return 0, fmt.Errorf("after record %d of disk %d comes record %d of disk %d", n, disk, r.Number, r.Disk)
		}
		b = b[record.Size:]
	}
	return n, nil
}

// foreign runs a program that speaks plain English and asks nothing.
func foreign(tb testing.TB, name string, args ...string) (string, error) {
	tb.Helper()
	c := exec.CommandContext(tb.Context(), name, args...)
	c.Env = append(os.Environ(), "LC_ALL=C")
	out, err := c.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return string(out), nil
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// ToRaw converts a disk that nobody writes to and returns the raw image.
func ToRaw(tb testing.TB, path, format string) string {
	tb.Helper()
	out := filepath.Join(tb.TempDir(), "raw")
	run(tb, testenv.Tool(tb, "qemu-img"), "convert", "-f", format, "-O", "raw", path, out)
	return out
}
