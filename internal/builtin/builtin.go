// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package builtin lists the sinks that come with the program.
package builtin

import (
	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/exec"
	"github.com/vmstream/vmstream/sinks/file"
	"github.com/vmstream/vmstream/sinks/s3"
	"github.com/vmstream/vmstream/sinks/ssh"
	"github.com/vmstream/vmstream/sinks/tape"
)

// Drivers returns the drivers of the sinks that come with the program, one of
// each scheme. stdout is none of them: it is the command's own.
func Drivers() []sinks.Driver {
	return append([]sinks.Driver{
		file.Driver(),
		s3.Driver(),
		exec.Driver(),
		ssh.Driver(),
		tape.Driver(),
	}, system()...)
}
