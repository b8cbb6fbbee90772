// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package builtin

import (
	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/netbackup"
	"github.com/vmstream/vmstream/sinks/networker"
)

// system returns the drivers that need what only Unix has.
func system() []sinks.Driver { return []sinks.Driver{netbackup.Driver(), networker.Driver()} }
