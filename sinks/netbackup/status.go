// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package netbackup

import (
	"context"
	"fmt"

	"github.com/vmstream/vmstream/sinks/internal/child"
)

// meanings has words for the exit statuses of NetBackup's commands.
var meanings = map[int]string{
	1: "partly done", 2: "none of the files were backed up", 5: "the restore failed", 6: "the backup failed",
	11: "a system call failed", 13: "reading the pipe failed", 14: "writing failed", 23: "reading from a socket failed",
	24: "writing to a socket failed", 40: "the network connection broke", 41: "the network connection timed out",
	50: "the client aborted", 54: "connecting to the client timed out", 59: "access to the client is not allowed",
	71: "none of the files exist", 73: "bpstart_notify failed", 74: "bpstart_notify timed out", 75: "bpend_notify timed out",
	77: "a command returned an error", 96: "no media", 129: "the disk is full", 150: "an administrator ended it",
	156: "the snapshot failed", 196: "the backup window is closed", 2800: "the restore failed",
}

// outcome waits for the command. Status 1 is not success either: an image is partly
// done if a file is missing, and this one has one file.
func outcome(ctx context.Context, p *child.Process, name string) error {
	err := p.Wait(ctx)
	if err == nil {
		return nil
	}
	if m, ok := meanings[p.Status()]; ok {
		return fmt.Errorf("%s: status %d, %s: %w", name, p.Status(), m, err)
	}
	return err
}
