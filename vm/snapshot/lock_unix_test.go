// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package snapshot

import (
	"syscall"
	"testing"
)

// TestLockEndsWithEntry has a copy of the lock's descriptor, as a process has that
// is just being started: the record is free all the same when it is given up.
func TestLockEndsWithEntry(t *testing.T) {
	j := testJournal(t)
	e, err := j.Begin(Record{Provider: "p"})
	if err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Dup(int(e.lock.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd) //nolint:errcheck // of a test
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := j.Open(e.Record().ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.End(); err != nil {
		t.Error(err)
	}
}
