// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package builtin lists the sinks that come with the program.
package builtin

import (
	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/file"
	"github.com/vmstream/vmstream/sinks/s3"
)

// Drivers returns the drivers of the sinks that come with the program, one of
// each scheme. stdout is none of them: it is the command's own.
func Drivers() []sinks.Driver {
	return []sinks.Driver{
		file.Driver(),
		s3.Driver(),
	}
}
